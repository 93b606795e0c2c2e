/** Reads manifests from files and standard input, changes their pods, and writes what came of it. */

import { readFile } from "node:fs/promises";
import { text } from "node:stream/consumers";
import { type ChangePod, changeManifests, type Told } from "../injector/manifests.ts";
import { OperatingError } from "../model/errors.ts";
import { EXIT_BAD, EXIT_GOOD, type Flag, type Invocation, type Terminal } from "./command.ts";

export const FILENAME: Flag = {
  name: "filename",
  short: "f",
  value: "FILE|-",
  many: true,
  summary:
    "Manifests, YAML or JSON; `-` is standard input, which is also read where none is given. Several are written one after the other.",
};

/** Words for what was done, by command. */
export interface Words {
  readonly changed: string;
}

/**
 * Writes the changed manifests to standard output, and a line for each object to standard error.
 * Where one object is refused, or a text cannot be read, nothing goes to standard output: a pipe to kubectl would apply
 * what is unguarded.
 */
export async function changeNamed(
  { lists, json }: Invocation,
  { out, err }: Terminal,
  change: ChangePod,
  words: Words,
): Promise<number> {
  const names = lists[FILENAME.name] ?? [];
  const texts: string[] = [];
  let isBad = false;
  for (const name of names.length === 0 ? ["-"] : names) {
    const where = name === "-" ? "standard input" : name;
    const changed = changeManifests(await read(name), where, change);
    if (!changed.ok) {
      for (const problem of changed.problems) err(json ? JSON.stringify({ problem }) : problem);
      isBad = true;
      continue;
    }
    texts.push(changed.text);
    for (const told of changed.told) {
      for (const line of json ? [JSON.stringify(told)] : linesOf(told, words)) err(line);
      if (told.kind === "refused") isBad = true;
    }
  }
  if (isBad) return EXIT_BAD;
  const whole = joined(texts);
  if (whole !== "") out(whole.replace(/\n$/, ""));
  return EXIT_GOOD;
}

function linesOf({ object, kind, why, warnings }: Told, { changed }: Words): readonly string[] {
  const state = kind === "changed" ? changed : kind === "refused" ? `refused: ${why}` : `left as it is: ${why}`;
  return [`${object}: ${state}`, ...warnings.map((warning) => `${object}: warning: ${warning}`)];
}

/** One stream of documents: texts that do not begin with a separator get one. */
function joined(texts: readonly string[]): string {
  return texts
    .filter((part) => part.trim() !== "")
    .map((part, index) => {
      const ended = part.endsWith("\n") ? part : `${part}\n`;
      return index === 0 || /^(?:\s*(?:#[^\n]*)?\n)*---(?:\s|$)/.test(part) ? ended : `---\n${ended}`;
    })
    .join("");
}

async function read(name: string): Promise<string> {
  if (name === "-") return await text(process.stdin);
  try {
    return await readFile(name, "utf8");
  } catch (cause) {
    throw new OperatingError("ERR_USAGE", `${name}: expected a file that can be read`, { cause });
  }
}
