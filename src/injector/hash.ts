/** Short digests that tell one configuration from another. */

import { createHash } from "node:crypto";

/** Hex digits of a digest. */
const DIGITS = 16;

/** The first 64 bits of a text's SHA-256, in hex: chance alone does not make two alike, and nothing depends on more. */
export function digestOf(text: string): string {
  return createHash("sha256").update(text).digest("hex").slice(0, DIGITS);
}
