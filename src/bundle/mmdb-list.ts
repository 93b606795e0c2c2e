/** Reads a MaxMind database as a list of networks. Format: https://maxmind.github.io/MaxMind-DB/ */

import { Reader, type Response } from "mmdb-lib";
import { type AddressRange, readRange } from "./address.ts";
import { addressOf, childOf, SEPARATOR_BYTES } from "./mmdb-probe.ts";

/** Sides of nodes looked at: a tree whose branches meet again and again is not followed for ever. */
const SIDES_MAX = 64_000_000;
/** IPv4 networks lie below this many zero bits of an IPv6 tree. */
const FOUR_IN_SIX_BITS = 96;
const FIELD_DEPTH_MAX = 16;

export interface MmdbChoice {
  /** The field that puts a network on the list, with dots between levels; empty: every network. */
  readonly field: string;
  /** Its values that do; empty: any but `false`, `0` and an empty text. */
  readonly values: readonly string[];
}

/**
 * Walks the search tree.
 * @param take takes a network; false ends the walk
 * @returns what was found instead of a database with networks to list, or `undefined` when all is well
 */
export function readMmdbList(
  bytes: Uint8Array,
  choice: MmdbChoice,
  take: (range: AddressRange) => boolean,
): string | undefined {
  let reader: Reader<Response>;
  try {
    reader = new Reader<Response>(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength));
  } catch {
    // Fails closed: the library's words speak of its decoder, not of the file.
    return `${bytes.byteLength} bytes that are no MMDB database`;
  }
  const { nodeCount, searchTreeSize, recordSize, ipVersion } = reader.metadata;
  if (!Number.isInteger(nodeCount) || nodeCount < 1 || (ipVersion !== 4 && ipVersion !== 6)) {
    return "a database whose metadata makes no sense";
  }
  if (searchTreeSize + SEPARATOR_BYTES >= bytes.byteLength) {
    return `a database that is cut off: ${nodeCount} nodes in ${bytes.byteLength} bytes`;
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const depthMax = ipVersion === 4 ? 32 : 128;
  const listed = new Map<number, boolean>();
  const fourStart = ipVersion === 6 ? fourStartOf(view, nodeCount, recordSize) : undefined;
  let taken = 0;
  const stack = [{ node: 0, bits: "" }];
  for (let looked = 0; stack.length > 0; ) {
    const { node, bits } = stack.pop()!;
    for (const side of [1, 0] as const) {
      if (++looked > SIDES_MAX) return `a database of more than ${SIDES_MAX} branches`;
      const next = childOf(view, node, side, recordSize);
      const path = `${bits}${side}`;
      if (next < nodeCount) {
        if (path.length >= depthMax) return "a database whose search tree does not end";
        // 6to4 and the like lead to the IPv4 networks once more.
        if (next === fourStart && /1/.test(path)) continue;
        stack.push({ node: next, bits: path });
      } else if (next > nodeCount) {
        if (next - nodeCount + searchTreeSize >= bytes.byteLength) {
          return "a database whose search tree points beyond its end";
        }
        let counts = listed.get(next);
        if (counts === undefined) {
          try {
            counts = isListed(reader.get(addressOf(path, depthMax)), choice);
          } catch {
            // Fails closed: a database with unreadable records is not used.
            return "a database with records that cannot be read";
          }
          listed.set(next, counts);
        }
        if (!counts) continue;
        taken++;
        if (!take(rangeOf(path, depthMax))) return undefined;
      }
    }
  }
  if (taken > 0) return undefined;
  return choice.field === ""
    ? "a database without networks"
    : `no network with a listed ${JSON.stringify(choice.field)}`;
}

/** The node at which the IPv4 networks of an IPv6 tree begin. */
function fourStartOf(view: DataView, nodeCount: number, recordSize: number): number | undefined {
  let node = 0;
  for (let bit = 0; bit < FOUR_IN_SIX_BITS; bit++) {
    node = childOf(view, node, 0, recordSize);
    if (node >= nodeCount) return undefined;
  }
  return node;
}

function rangeOf(path: string, depthMax: number): AddressRange {
  const four = depthMax === 128 && path.length >= FOUR_IN_SIX_BITS && !path.slice(0, FOUR_IN_SIX_BITS).includes("1");
  const bits = four ? path.slice(FOUR_IN_SIX_BITS) : path;
  // The text that is written here is always an address and a prefix that fits it.
  return readRange(`${addressOf(bits, four ? 32 : depthMax)}/${bits.length}`)!;
}

function isListed(record: unknown, { field, values }: MmdbChoice): boolean {
  if (field === "") return true;
  let value = record;
  for (const name of field.split(".").slice(0, FIELD_DEPTH_MAX)) {
    if (typeof value !== "object" || value === null || !Object.hasOwn(value, name)) return false;
    value = (value as Record<string, unknown>)[name];
  }
  const found = Array.isArray(value) ? value : [value];
  if (values.length > 0) return found.some((one) => typeof one !== "object" && values.includes(String(one)));
  return found.some((one) => one !== false && one !== "" && one !== null && Number(one) !== 0);
}
