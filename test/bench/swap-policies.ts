/** Policies to swap between, each of which blocks its own of a few addresses, so that a verdict tells of which it is. */

import { writeFileSync } from "node:fs";
import { join } from "node:path";

/** Where callers call from, one after another. */
export const ADDRESSES = ["198.51.100.1", "198.51.100.2", "198.51.100.3"] as const;

/** Revisions, and which of the addresses each blocks. */
const BLOCKED: Readonly<Record<string, readonly number[]>> = { full: [0], none: [], other: [1] };

export const REVISIONS: readonly string[] = Object.keys(BLOCKED);

/** Whether a revision blocks an address. */
export function listed(revision: string, who: number): boolean {
  return BLOCKED[revision]?.includes(who) === true;
}

/** Writes a revision's policy and list. */
export function writePolicies(folder: string, ranges: number): Readonly<Record<string, string>> {
  return Object.fromEntries(
    Object.entries(BLOCKED).map(([revision, blocked]) => {
      const lines = blocked.map((who) => ADDRESSES[who]);
      const first = revision === "other" ? 60 : 20;
      for (let i = 0; blocked.length > 0 && i < ranges - blocked.length; i++) {
        lines.push(`${first + (i >> 16)}.${(i >> 8) & 255}.${i & 255}.0/25` as never);
      }
      writeFileSync(join(folder, `${revision}.txt`), `${lines.join("\n")}\n`);
      const list = blocked.length === 0 ? "[]" : `[{ name: blocked, action: block, file: ${revision}.txt }]`;
      const challenge = revision === "other" ? 27 : 26;
      return [
        revision,
        `apiVersion: sallyport.dev/v1
kind: Policy
metadata: { name: swap, revision: ${revision} }
spec:
  thresholds: { challenge: ${challenge} }
  lists: { addresses: ${list} }
`,
      ];
    }),
  );
}
