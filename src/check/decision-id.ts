/** Decision ids: UUIDs of version 7 (RFC 9562, section 5.7), so that they sort by time. */

import type { EpochMs } from "../model/units.ts";

/** @param random 16 random bytes, of which 10 are used */
export function decisionId(now: EpochMs, random: Uint8Array): string {
  const bytes = Uint8Array.from(random.subarray(0, 16));
  const time = Math.max(0, Math.floor(now));
  const low = time % 2 ** 32;
  const high = (time - low) / 2 ** 32;
  bytes[0] = high >>> 8;
  bytes[1] = high;
  bytes[2] = low >>> 24;
  bytes[3] = low >>> 16;
  bytes[4] = low >>> 8;
  bytes[5] = low;
  bytes[6] = ((bytes[6] as number) & 0x0f) | 0x70;
  bytes[8] = ((bytes[8] as number) & 0x3f) | 0x80;
  let text = "";
  for (let i = 0; i < 16; i++) {
    if (i === 4 || i === 6 || i === 8 || i === 10) text += "-";
    text += HEX[bytes[i] as number] as string;
  }
  return text;
}

const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));
