/** Reads manifests from files and standard input, changes their pods, and writes what came of it. */

import { createReadStream } from "node:fs";
import type { Readable } from "node:stream";
import { type ChangePod, changeManifests, MANIFEST_CHARS_MAX, type Told } from "../injector/manifests.ts";
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

/** @throws {OperatingError} ERR_USAGE when it cannot be read, ERR_CONFIG_INVALID when it is no text or too long a one */
async function read(name: string): Promise<string> {
  const where = name === "-" ? "standard input" : name;
  const bytes = await readBytes(name === "-" ? process.stdin : createReadStream(name), where);
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    // Refused, for what stood in place of such bytes would be applied instead of them.
    const got = UTF16_MARKS.includes(bytes.toString("hex", 0, 2)) ? "UTF-16, as PowerShell writes it" : "other bytes";
    throw new OperatingError("ERR_CONFIG_INVALID", `${where}: expected text in UTF-8, got ${got}`, { cause });
  }
}

/** Byte order marks (RFC 2781, section 3.2), hex. */
const UTF16_MARKS = ["fffe", "feff"];

async function readBytes(stream: Readable, where: string): Promise<Buffer> {
  const pieces: Buffer[] = [];
  let length = 0;
  try {
    for await (const piece of stream) {
      pieces.push(piece as Buffer);
      length += (piece as Buffer).length;
      if (length > MANIFEST_CHARS_MAX) break;
    }
  } catch (cause) {
    const why = (cause as NodeJS.ErrnoException).code ?? "an error";
    throw new OperatingError("ERR_USAGE", `${where}: expected a file that can be read, got ${why}`, { cause });
  }
  if (length <= MANIFEST_CHARS_MAX) return Buffer.concat(pieces, length);
  throw new OperatingError("ERR_CONFIG_INVALID", `${where}: expected at most ${MANIFEST_CHARS_MAX} bytes, got more`);
}
