/** Looks at a sample of an MMDB database's records, to refuse a broken or foreign file before it is used. */

import type { Reader, Response } from "mmdb-lib";

/** Records looked at. */
const RECORDS_MAX = 64;
/** Nodes walked to find them. */
const NODES_MAX = 20_000;
/** Bytes between the search tree and the data. */
export const SEPARATOR_BYTES = 16;

export type ProbeResult =
  | { readonly ok: true; readonly records: readonly unknown[] }
  | { readonly ok: false; readonly got: string };

/**
 * Walks the search tree to the first records and reads them.
 * Format: https://maxmind.github.io/MaxMind-DB/
 */
export function probe(reader: Reader<Response>, bytes: Uint8Array): ProbeResult {
  const { nodeCount, searchTreeSize, recordSize, ipVersion } = reader.metadata;
  if (!Number.isInteger(nodeCount) || nodeCount < 1 || (ipVersion !== 4 && ipVersion !== 6)) {
    return { ok: false, got: "a database whose metadata makes no sense" };
  }
  const dataStart = searchTreeSize + SEPARATOR_BYTES;
  if (dataStart >= bytes.byteLength) {
    return { ok: false, got: `a database that is cut off: ${nodeCount} nodes in ${bytes.byteLength} bytes` };
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const depthMax = ipVersion === 4 ? 32 : 128;
  const records: unknown[] = [];
  const stack = [{ node: 0, bits: "" }];
  for (let walked = 0; stack.length > 0 && walked < NODES_MAX && records.length < RECORDS_MAX; walked++) {
    const { node, bits } = stack.pop()!;
    for (const side of [1, 0] as const) {
      const next = childOf(view, node, side, recordSize);
      const path = `${bits}${side}`;
      if (next < nodeCount) {
        if (path.length >= depthMax) return { ok: false, got: "a database whose search tree does not end" };
        stack.push({ node: next, bits: path });
      } else if (next > nodeCount) {
        if (next - nodeCount + searchTreeSize >= bytes.byteLength) {
          return { ok: false, got: "a database whose search tree points beyond its end" };
        }
        try {
          records.push(reader.get(addressOf(path, depthMax)));
        } catch {
          // Fails closed: a database with unreadable records is not used.
          return { ok: false, got: "a database with records that cannot be read" };
        }
      }
    }
  }
  return { ok: true, records };
}

/** What a node's side leads to: a node, nothing (the count of nodes itself), or beyond it data. */
export function childOf(view: DataView, node: number, side: 0 | 1, recordSize: number): number {
  const offset = (node * recordSize) / 4;
  if (recordSize === 32) return view.getUint32(offset + side * 4);
  if (recordSize === 24) return (view.getUint16(offset + side * 3) << 8) | view.getUint8(offset + side * 3 + 2);
  const middle = view.getUint8(offset + 3);
  const high = side === 0 ? middle >>> 4 : middle & 0x0f;
  const low = offset + side * 4;
  return high * 2 ** 24 + ((view.getUint16(low) << 8) | view.getUint8(low + 2));
}

/** The lowest address whose first bits are those of the path. */
export function addressOf(path: string, depth: number): string {
  const bits = path.padEnd(depth, "0");
  if (depth === 32) return (bits.match(/.{8}/g) ?? []).map((octet) => Number.parseInt(octet, 2)).join(".");
  return (bits.match(/.{16}/g) ?? []).map((group) => Number.parseInt(group, 2).toString(16)).join(":");
}
