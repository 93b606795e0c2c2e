/** Runs a command of the program inside the test's own process: the same door, without the start of another Node. */

import { run } from "../../src/cli/main.ts";

export interface Ran {
  /** Exit status. */
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

export async function command(
  args: readonly string[],
  environment: Readonly<Record<string, string>> = {},
): Promise<Ran> {
  let out = "";
  let err = "";
  const code = await run(args, {
    out: (line) => {
      out += `${line}\n`;
    },
    err: (line) => {
      err += `${line}\n`;
    },
    environment,
  });
  return { code, out, err };
}
