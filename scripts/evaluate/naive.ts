/** Four rules that anybody could write, to be compared with: new address, new /24, new user agent, new address and agent. */

import type { ReplayRow } from "../../src/check/replay.ts";
import type { Judged } from "./tally.ts";

export const NAIVE_RULES = ["new address", "new /24", "new user agent", "new address and agent"] as const;

/** Judges rows in order by first sight per principal; a principal's very first row is never flagged. */
export class NaiveRules {
  private readonly seen = new Map<string, readonly [Set<string>, Set<string>, Set<string>]>();

  /** One judgement per rule, in the order of {@link NAIVE_RULES}. */
  judge(row: ReplayRow): readonly Judged[] {
    const known = this.seen.get(row.principal) ?? [new Set<string>(), new Set<string>(), new Set<string>()];
    this.seen.set(row.principal, known);
    const address = row.source_address ?? "";
    const values = [address, networkOf(address), row.user_agent ?? ""] as const;
    const [newAddress, newNetwork, newAgent] = values.map((value, i) => {
      const set = known[i] as Set<string>;
      const novel = set.size > 0 && !set.has(value);
      set.add(value);
      return novel;
    });
    return [newAddress, newNetwork, newAgent, newAddress && newAgent].map((flag) =>
      flag === true ? { score: 90, rank: 2 } : { score: 0, rank: 0 },
    );
  }
}

function networkOf(address: string): string {
  return address.includes(":") ? address.split(":").slice(0, 4).join(":") : address.slice(0, address.lastIndexOf("."));
}
