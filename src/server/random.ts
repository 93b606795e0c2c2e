/** Random bytes for ids, drawn in blocks: asking the system for sixteen at a time costs more than judging a request. */

import { randomFillSync } from "node:crypto";

const BLOCK_BYTES = 4096;

/** Cryptographically strong bytes; each is given out once. */
export function pooledRandom(): (size: number) => Uint8Array {
  const block = Buffer.alloc(BLOCK_BYTES);
  let at = BLOCK_BYTES;
  return (size) => {
    if (at + size > BLOCK_BYTES) {
      randomFillSync(block);
      at = 0;
    }
    const bytes = Uint8Array.prototype.slice.call(block, at, at + size);
    at += size;
    return bytes;
  };
}
