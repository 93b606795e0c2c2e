/** The only form in which a secret is ever remembered or shown. */

import { createHmac, hash } from "node:crypto";

/** Hex digits kept: 64 bits, far beyond what a bounded table can collide in. */
const HEX_DIGITS = 16;

/** Octets that SHA-256 takes at a time, and makes (RFC 2104, section 2: B and L). */
const BLOCK_BYTES = 64;
const DIGEST_BYTES = 32;
const INNER = 0x36;
const OUTER = 0x5c;
/** Longer texts are hashed without a place of their own. */
const TEXT_BYTES_MAX = 16 * 1024;
/** UTF-8 takes no more for a UTF-16 unit. */
const UNIT_BYTES_MAX = 3;

/** HMAC-SHA256 of `text` under a key that stays in this process, as 16 hex digits. */
export function keyedHash(key: Uint8Array, text: string | Uint8Array): string {
  if (typeof text !== "string" || text.length * UNIT_BYTES_MAX > TEXT_BYTES_MAX || key.length > BLOCK_BYTES) {
    return createHmac("sha256", key).update(text).digest("hex").slice(0, HEX_DIGITS);
  }
  if (padded?.key !== key) padded = new PaddedKey(key);
  return padded.hash(text);
}

/**
 * A key made ready for short texts. Every request with a bearer token needs its hash, and each of `createHmac`'s objects
 * costs more than hashing, again when it is collected (`test/bench/pieces.ts`): two hashes in one place give the same.
 */
class PaddedKey {
  readonly key: Uint8Array;
  private readonly inner = Buffer.alloc(BLOCK_BYTES + TEXT_BYTES_MAX);
  private readonly outer = Buffer.alloc(BLOCK_BYTES + DIGEST_BYTES);

  constructor(key: Uint8Array) {
    this.key = key;
    for (let i = 0; i < BLOCK_BYTES; i++) {
      this.inner[i] = (key[i] ?? 0) ^ INNER;
      this.outer[i] = (key[i] ?? 0) ^ OUTER;
    }
  }

  hash(text: string): string {
    const { inner, outer } = this;
    const end = BLOCK_BYTES + inner.write(text, BLOCK_BYTES);
    outer.write(hash("sha256", inner.subarray(0, end), "binary"), BLOCK_BYTES, "latin1");
    inner.fill(0, BLOCK_BYTES, end); // it was a secret
    return hash("sha256", outer, "hex").slice(0, HEX_DIGITS);
  }
}

/** A process has one key. */
let padded: PaddedKey | undefined;
