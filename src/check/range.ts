/** One address range and whether an address lies in it: for the few ranges that locks name. */

import { BlockList, isIP } from "node:net";

export interface AddressRange {
  readonly list: BlockList;
}

/** Reads `192.0.2.7`, `192.0.2.0/24` or their IPv6 forms; `undefined` when it is neither. */
export function parseRange(text: string): AddressRange | undefined {
  const slash = text.indexOf("/");
  const address = slash === -1 ? text : text.slice(0, slash);
  const family = isIP(address);
  if (family === 0) return undefined;
  const bitsMax = family === 4 ? 32 : 128;
  const prefixText = slash === -1 ? String(bitsMax) : text.slice(slash + 1);
  if (!/^\d{1,3}$/.test(prefixText) || Number(prefixText) > bitsMax) return undefined;
  const list = new BlockList();
  list.addSubnet(address, Number(prefixText), family === 4 ? "ipv4" : "ipv6");
  return { list };
}

export function rangeContains(range: AddressRange, address: string): boolean {
  const family = isIP(address);
  return family !== 0 && range.list.check(address, family === 4 ? "ipv4" : "ipv6");
}
