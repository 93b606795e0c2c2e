/** Remembers what header blocks said: a client repeats the same few indexed bytes for every call. */

import type { RequestHead } from "./grpc-head.ts";

/** Longer blocks carry literals, which change the table or differ anyhow. */
const BLOCK_BYTES_MAX = 128;
const ENTRIES_MAX = 4;

interface Entry {
  readonly block: Buffer;
  readonly generation: number;
  readonly head: RequestHead;
}

/**
 * Exact: a block that left the decoder's table as it was decodes to the same list while the table is still that one.
 * The oldest of four entries makes room. Its benchmark is `npx tsx test/bench/transport.ts`.
 */
export class HeadMemo {
  private readonly entries: Entry[] = [];
  private next = 0;

  /** @param generation of the decoder's table, now */
  find(bytes: Buffer, start: number, end: number, generation: number): RequestHead | undefined {
    const length = end - start;
    search: for (const entry of this.entries) {
      if (entry.generation !== generation || entry.block.length !== length) continue;
      const { block } = entry;
      for (let at = 0; at < length; at++) if (block[at] !== bytes[start + at]) continue search;
      return entry.head;
    }
    return undefined;
  }

  /** To be called only if the table's generation is the same before and after the block was decoded. */
  keep(bytes: Buffer, start: number, end: number, generation: number, head: RequestHead): void {
    if (end - start > BLOCK_BYTES_MAX) return;
    this.entries[this.next] = { block: Buffer.from(bytes.subarray(start, end)), generation, head };
    this.next = (this.next + 1) % ENTRIES_MAX;
  }
}
