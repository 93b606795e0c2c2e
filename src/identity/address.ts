/** One canonical text for each address, so that memory and lists agree on it. */

import { isIP } from "node:net";

/**
 * Canonical text of an IP address: IPv6 compressed as RFC 5952 says, without zone; IPv4-mapped IPv6 as IPv4.
 * @returns `undefined` when `text` is no address
 */
export function canonicalAddress(text: string): string | undefined {
  if (text.length > 64) return undefined;
  const zone = text.indexOf("%");
  const bare = zone === -1 ? text : text.slice(0, zone);
  const family = isIP(bare);
  if (family === 4) return bare;
  if (family === 0) return undefined;
  // The URL parser writes IPv6 addresses in the canonical form of RFC 5952.
  const canonical = new URL(`http://[${bare}]/`).hostname.slice(1, -1);
  const mapped = /^::ffff:([0-9a-f]{1,4}):([0-9a-f]{1,4})$/.exec(canonical);
  if (mapped === null) return canonical;
  const high = Number.parseInt(mapped[1] as string, 16);
  const low = Number.parseInt(mapped[2] as string, 16);
  return `${high >> 8}.${high & 255}.${low >> 8}.${low & 255}`;
}
