/** Reads recorded requests from disk: rows or decision logs, plain or compressed. */

import { createReadStream } from "node:fs";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { createGunzip } from "node:zlib";
import { type ReadRequest, readRequest } from "../check/logged.ts";
import { OperatingError } from "../model/errors.ts";

/** @throws {OperatingError} ERR_REPLAY_ROW with the number of the line, ERR_DATA_UNREADABLE */
export async function* requestsOf(path: string): AsyncGenerator<ReadRequest> {
  let lineNumber = 0;
  for await (const text of linesOf(path)) {
    lineNumber++;
    if (text.trim() !== "") yield readRequest(text, lineNumber);
  }
}

/** @throws {OperatingError} ERR_DATA_UNREADABLE */
export async function* linesOf(path: string): AsyncGenerator<string> {
  const file = createReadStream(path);
  const source: Readable = path.endsWith(".gz") ? file.pipe(createGunzip()) : file;
  const failure = new Promise<never>((_resolve, reject) => {
    for (const stream of new Set<Readable>([file, source])) stream.once("error", reject);
  });
  failure.catch(() => {});
  const lines = createInterface({ input: source, crlfDelay: Number.POSITIVE_INFINITY })[Symbol.asyncIterator]();
  try {
    for (;;) {
      const next = await Promise.race([lines.next(), failure]);
      if (next.done === true) return;
      yield next.value;
    }
  } catch (cause) {
    if (cause instanceof OperatingError) throw cause;
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new OperatingError("ERR_DATA_UNREADABLE", `${path}: cannot be read: ${why}`, { cause });
  }
}
