/** Encodes header blocks that touch no dynamic table: the same block is right at any time on any connection. */

import { STATIC_TABLE } from "./hpack-table.ts";

/** Dynamic table size update to 0 (RFC 7541 section 6.3): due when the peer has made the table smaller. */
export const SIZE_UPDATE_TO_ZERO = 0x20;

/** @param fields names in lower case; octets as latin1 */
export function encodeHeaders(fields: readonly (readonly [name: string, value: string])[]): Buffer {
  const parts: Buffer[] = [];
  for (const [name, value] of fields) {
    const whole = STATIC_TABLE.findIndex((field) => field.name === name && field.value === value) + 1;
    if (whole > 0) {
      parts.push(integer(0x80, 7, whole));
      continue;
    }
    const known = STATIC_TABLE.findIndex((field) => field.name === name) + 1;
    parts.push(integer(0, 4, known));
    if (known === 0) parts.push(text(name));
    parts.push(text(value));
  }
  return Buffer.concat(parts);
}

function text(value: string): Buffer {
  return Buffer.concat([integer(0, 7, value.length), Buffer.from(value, "latin1")]);
}

/** RFC 7541 section 5.1. */
export function integer(prefix: number, bits: number, value: number): Buffer {
  const mask = (1 << bits) - 1;
  if (value < mask) return Buffer.of(prefix | value);
  const bytes = [prefix | mask];
  let rest = value - mask;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) + 128);
  bytes.push(rest);
  return Buffer.from(bytes);
}
