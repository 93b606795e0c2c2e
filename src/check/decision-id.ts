/** Decision ids: UUIDs of version 7 (RFC 9562, section 5.7), so that they sort by time. */

import type { EpochMs } from "../model/units.ts";

/** @param random 16 random bytes, of which 10 are used */
export function decisionId(now: EpochMs, random: Uint8Array): string {
  const bytes = Uint8Array.from(random.subarray(0, 16));
  const time = Math.max(0, Math.floor(now));
  for (let i = 0; i < 6; i++) bytes[i] = Math.floor(time / 2 ** (8 * (5 - i))) % 256;
  bytes[6] = ((bytes[6] as number) & 0x0f) | 0x70;
  bytes[8] = ((bytes[8] as number) & 0x3f) | 0x80;
  let hex = "";
  for (const byte of bytes) hex += byte.toString(16).padStart(2, "0");
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}
