/** The only form in which a secret is ever remembered or shown. */

import { createHmac } from "node:crypto";

/** Hex digits kept: 64 bits, far beyond what a bounded table can collide in. */
const HEX_DIGITS = 16;

/** HMAC-SHA256 of `text` under a key that stays in this process, as 16 hex digits. */
export function keyedHash(key: Uint8Array, text: string | Uint8Array): string {
  return createHmac("sha256", key).update(text).digest("hex").slice(0, HEX_DIGITS);
}
