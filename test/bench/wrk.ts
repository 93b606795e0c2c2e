/** wrk as HTTP client, where it is installed: it takes a fraction of the CPU that any client in JavaScript does. */

import { execFile, execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import type { HttpOrder, HttpResult } from "./http-load.ts";
import { REQUESTS } from "./http-requests.ts";
import { beside, PINNED } from "./measured.ts";

const run = promisify(execFile);

export type Wrk = (order: Omit<HttpOrder, "perSecond">) => Promise<HttpResult>;

/** @returns `undefined` where there is no wrk; @param folder for the requests that it sends */
export function findWrk(folder: string, core: number): Wrk | undefined {
  try {
    execFileSync("wrk", ["--version"], { stdio: "ignore" });
  } catch (error) {
    // It ends with 1 after telling its version.
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
  }
  const requests = join(folder, "requests.txt");
  writeFileSync(requests, REQUESTS.map((lines) => `${lines.join("\n")}\n--\n`).join(""));
  return async ({ port, connections, seconds }) => {
    const wrk = [
      ...["wrk", "--threads", "1", "--connections", String(connections), "--duration", `${seconds}s`],
      ...["--script", beside("wrk.lua"), `http://127.0.0.1:${port}`, "--", requests],
    ];
    const [program = "", ...args] = PINNED ? ["taskset", "-c", String(core), ...wrk] : wrk;
    const { stdout } = await run(program, args);
    const line = stdout.trimEnd().split("\n").at(-1) ?? "";
    return JSON.parse(line) as HttpResult;
  };
}
