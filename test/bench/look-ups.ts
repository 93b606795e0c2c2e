/** Time to look an address up in many ranges, beside Node's own BlockList with a hundredth of them. */

import { BlockList } from "node:net";
import { importBuilt } from "./built.ts";
import { rounded } from "./figures.ts";

const [{ readRange }, { buildAddressLists }] = (await importBuilt("bundle/address", "bundle/ranges")) as [
  typeof import("../../src/bundle/address.ts"),
  typeof import("../../src/bundle/ranges.ts"),
];

const RANGES = 100_000;
const FEW = 1_000;
const ASKED = 4_096;
const ROUNDS = 5;

export interface LookUpFigures {
  readonly family: "IPv4" | "IPv6";
  readonly listsNs: number;
  readonly listsHits: number;
  readonly blockListNs: number;
}

/** Half of the addresses asked for are listed. Medians are not needed: the best round is what the look-up costs. */
export function measureLookUps(times: number): readonly LookUpFigures[] {
  const four = Array.from({ length: RANGES }, (_, i) => `${ipv4(spread(i))}/24`);
  const six = Array.from({ length: RANGES }, (_, i) => `${ipv6(spread(i))}/48`);
  const hit = { list: "bench", action: "score", bits: 5, reason: "bench" } as const;
  return [["IPv4", four, ipv4] as const, ["IPv6", six, ipv6] as const].map(([family, ranges, write]) => {
    const lists = buildAddressLists(ranges.map((text) => ({ range: readRange(text)!, hit })));
    const few = new BlockList();
    const type = family === "IPv4" ? "ipv4" : "ipv6";
    for (const range of ranges.slice(0, FEW)) {
      const [address = "", prefix] = range.split("/");
      few.addSubnet(address, Number(prefix), type);
    }
    // Odd steps beyond the listed ones hit nothing.
    const asked = Array.from({ length: ASKED }, (_, i) => write(spread(i % 2 === 0 ? i : RANGES + i), 9));
    const hits = asked.filter((address) => lists.lookup(address) !== undefined).length;
    return {
      family,
      listsNs: nanoseconds(times, asked, (address) => lists.lookup(address)),
      listsHits: hits / ASKED,
      blockListNs: nanoseconds(Math.max(ASKED, times / 50), asked, (address) => few.check(address, type)),
    };
  });
}

/** 24 bits that differ for every `i` and are spread over their whole room. */
function spread(i: number): number {
  return (i * 10_368_889) & 0xffffff;
}

function ipv4(bits: number, last = 0): string {
  return `${bits >>> 16}.${(bits >>> 8) & 255}.${bits & 255}.${last}`;
}

function ipv6(bits: number, last = 0): string {
  return `2001:${(bits >>> 8).toString(16)}:${((bits & 255) << 8).toString(16)}::${last === 0 ? "" : last}`;
}

function nanoseconds(times: number, asked: readonly string[], look: (address: string) => unknown): number {
  let best = Number.POSITIVE_INFINITY;
  for (let round = 0; round < ROUNDS; round++) {
    const before = process.hrtime.bigint();
    for (let i = 0; i < times; i++) look(asked[i % ASKED] as string);
    best = Math.min(best, Number(process.hrtime.bigint() - before) / times);
  }
  return rounded(best);
}
