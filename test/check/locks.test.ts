/** Tests that locks match what they name, by look-ups whose number does not grow with the locks. */

import t from "tap";
import { Locks } from "../../src/check/locks.ts";
import type { RequestFacts } from "../../src/model/facts.ts";
import type { Identity } from "../../src/model/identity.ts";
import type { Lock, LockScope } from "../../src/model/policy.ts";
import { toEpochMs } from "../../src/model/units.ts";

const NOW = toEpochMs(1_000_000);

const lockOf = (id: string, scope: LockScope, expiresAtMs?: number): Lock => ({
  id,
  scope,
  reason: "test",
  setBy: "operator",
  setAtMs: NOW,
  expiresAtMs,
});

const identity = {
  principal: { name: "spiffe://td/a" },
  second: undefined,
  credential: "token:1",
} as unknown as Identity;

const factsOf = (sourceAddress: string | undefined): RequestFacts =>
  ({
    sourceAddress,
    destination: "ledger",
    tls: { ja4: "t13d", ja3: undefined },
    presented: { certificate: { sha256: "aa", serial: "01", keySha256: "bb" } },
  }) as unknown as RequestFacts;

const cases: { scope: LockScope; address?: string; group?: string; hit: boolean }[] = [
  { scope: { key: "bb" }, hit: true },
  { scope: { key: "aa" }, hit: false },
  { scope: { certificate: "01" }, hit: true },
  { scope: { peerGroup: "batch" }, group: "batch", hit: true },
  { scope: { peerGroup: "batch" }, group: "web", hit: false },
  { scope: { peerGroup: "batch" }, hit: false },
  { scope: { address: "10.0.0.0/8" }, address: "10.255.255.255", hit: true },
  { scope: { address: "10.0.0.0/8" }, address: "11.0.0.0", hit: false },
  { scope: { address: "0.0.0.0/0" }, address: "11.0.0.0", hit: true },
  { scope: { address: "0.0.0.0/0" }, address: "2001:db8::1", hit: false },
  { scope: { address: "2001:db8::/33" }, address: "2001:db8:7fff::1", hit: true },
  { scope: { address: "2001:db8::/33" }, address: "2001:db8:8000::1", hit: false },
  { scope: { address: "10.0.0.1" }, hit: false },
  { scope: { address: "10.0.0.1", credential: "token:1", fingerprint: "t13d" }, address: "10.0.0.1", hit: true },
  { scope: { address: "10.0.0.1", credential: "token:2", fingerprint: "t13d" }, address: "10.0.0.1", hit: false },
  { scope: { principal: "spiffe://td/a", destination: "ledger" }, hit: true },
  { scope: { principal: "spiffe://td/a", destination: "other" }, hit: false },
];
for (const { scope, address, group, hit } of cases) {
  t.test(
    `${JSON.stringify(scope)} ${hit ? "matches" : "spares"} ${address ?? "no address"} ${group ?? ""}`,
    async (t) => {
      const table = new Locks(10);
      table.add(lockOf("one", scope));
      t.equal(table.match(factsOf(address), identity, group, NOW)?.id, hit ? "one" : undefined);
      table.remove("one");
      t.equal(table.match(factsOf(address), identity, group, NOW), undefined);
    },
  );
}

t.test("ten thousand locks of one shape are one look-up, even where all but the address is the same", async (t) => {
  const table = new Locks(10_000);
  for (let i = 0; i < 10_000; i++) {
    table.add(lockOf(`l${i}`, { destination: "ledger", address: `10.1.${i >> 8}.${i & 255}` }));
  }
  const { shapes } = table as unknown as { shapes: ReadonlyMap<string, { locks: ReadonlyMap<string, Set<Lock>> }> };
  t.equal(shapes.size, 1);
  t.equal(Math.max(...[...[...shapes.values()][0]!.locks.values()].map((bucket) => bucket.size)), 1);
  t.equal(table.match(factsOf("10.1.39.15"), identity, undefined, NOW)?.id, "l9999");
  t.equal(table.match(factsOf("10.2.0.0"), identity, undefined, NOW), undefined);
  t.throws(() => table.add(lockOf("more", { principal: "x" })), { code: "ERR_LOCK_INVALID" });
});

t.test("a full table makes room by taking away what has expired", async (t) => {
  const told: string[] = [];
  const table = new Locks(2, (change) =>
    told.push(`${change.kind} ${change.kind === "added" ? change.lock.id : change.id}`),
  );
  table.add(lockOf("a", { principal: "x" }, NOW));
  table.add(lockOf("b", { principal: "y" }));
  table.add(lockOf("c", { principal: "z" }));
  t.same(told, ["added a", "added b", "removed a", "added c"]);
});
