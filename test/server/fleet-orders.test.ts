/** Tests that orders of the control plane are carried out, and what is told of risk in return. */

import t from "tap";
import { Locks } from "../../src/check/locks.ts";
import { Postures } from "../../src/check/posture-table.ts";
import type { Lock } from "../../src/model/policy.ts";
import type { Verdict } from "../../src/model/verdict.ts";
import { FleetOrders } from "../../src/server/fleet-orders.ts";

const lockOf = (id: string, principal = id): Lock => ({
  id,
  scope: { principal },
  reason: "test",
  setBy: "fleet:ann",
  setAtMs: 1,
  expiresAtMs: undefined,
});

function scene({ strict = false, locksMax = 20_000 } = {}) {
  let atMs = 0;
  const told: string[] = [];
  let batches = 0;
  const locks = new Locks(locksMax, (change) => told.push(change.kind));
  const posture = new Postures(10);
  const errors: string[] = [];
  const orders = new FleetOrders({
    line: { locks, posture },
    followed: true,
    strict,
    staleAfterMs: 1_000,
    now: () => 1_000_000,
    monotonicMs: () => atMs,
    together: (job) => {
      batches++;
      job();
    },
    onStated: () => {},
    onChange: () => {},
    onError: (lock) => errors.push(lock),
  });
  const pass = (ms: number): void => {
    atMs += ms;
  };
  return { orders, locks, posture, told, errors, pass, batches: () => batches };
}

const none = { whole: false, locks: [], posture: [], removed: [] };

t.test("a whole takes away what it leaves out, and never a lock of this sidecar", async (t) => {
  const { orders, locks } = scene();
  locks.add(lockOf("lock-own"));
  locks.add(lockOf("auto-1"));
  orders.orders({ ...none, locks: [lockOf("fleet-a"), lockOf("fleet-b")] });
  orders.orders({ ...none, whole: true, locks: [lockOf("fleet-b"), lockOf("lock-own", "another"), lockOf("auto-2")] });
  orders.orders({ ...none, removed: ["lock-own", "auto-1", "fleet-none"] });
  t.same(
    locks
      .list(1_000_000 as never)
      .map(({ id }) => id)
      .sort(),
    ["auto-1", "fleet-b", "lock-own"],
  );
  t.equal(locks.list(1_000_000 as never).find(({ id }) => id === "lock-own")?.scope.principal, "lock-own");
});

t.test("ten thousand locks at once are one change on disk, and the same again are none", async (t) => {
  const { orders, told, batches, locks } = scene();
  const all = Array.from({ length: 10_000 }, (_, i) => lockOf(`fleet-${i}`));
  orders.orders({ ...none, whole: true, locks: all });
  t.equal(batches(), 1);
  t.equal(told.length, 10_000);
  orders.orders({ ...none, whole: true, locks: all.map((lock) => ({ ...lock })) });
  t.equal(told.length, 10_000);
  t.equal(locks.size, 10_000);
});

t.test("a lock that has no room is told of, and the others are in force", async (t) => {
  const { orders, errors, locks } = scene({ locksMax: 1 });
  orders.orders({ ...none, locks: [lockOf("fleet-a"), lockOf("fleet-b")] });
  t.same(errors, ["fleet-b"]);
  t.equal(locks.size, 1);
});

t.test(
  "strict refuses from the start until the control plane is heard, and after it was silent for too long",
  async (t) => {
    const { orders, pass } = scene({ strict: true });
    t.ok(orders.refuses());
    orders.heard();
    t.notOk(orders.refuses());
    pass(1_000);
    t.notOk(orders.refuses());
    pass(1);
    t.ok(orders.refuses());
    const easy = scene();
    easy.pass(5_000);
    t.equal(easy.orders.view(), "stale");
    t.notOk(easy.orders.refuses());
  },
);

t.test("posture is merged fact by fact; of a whole that comes again the later statement counts", async (t) => {
  const { orders, posture } = scene();
  posture.put("p", { facts: { patched: "true", risk: "LOW" }, source: "local API", reportedAtMs: 50 });
  const state = (facts: Record<string, string>, reportedAtMs: number) => ({
    subject: "p",
    facts: { facts, source: "shared-signals:idp", reportedAtMs },
  });
  orders.orders({ ...none, posture: [state({ risk: "HIGH" }, 60)] });
  t.same(posture.get("p")?.facts, { patched: "true", risk: "HIGH" });
  posture.put("p", { facts: { patched: "true", risk: "LOW" }, source: "local API", reportedAtMs: 90 });
  orders.orders({ ...none, whole: true, posture: [state({ risk: "HIGH", note: "x" }, 60)] });
  t.same(posture.get("p"), {
    facts: { risk: "LOW", note: "x", patched: "true" },
    source: "local API",
    reportedAtMs: 90,
  });
});

const verdictOf = (changes: object = {}, because = "score"): Verdict =>
  ({
    decisionId: "d1",
    decision: { kind: "terminate", because },
    enforced: "terminate",
    identity: { proven: true, principal: { kind: "spiffe", name: "spiffe://td/a" } },
    score: 80,
    time: 1_000,
    ...changes,
  }) as unknown as Verdict;

t.test("a risk is told once, of proven callers alone, until the control plane has taken it", async (t) => {
  const { orders } = scene();
  const forged = { proven: false, principal: { kind: "spiffe", name: "spiffe://td/owner" } };
  orders.judged(verdictOf({ identity: forged }));
  orders.judged(verdictOf({ identity: { proven: true, principal: { kind: "api_key", name: "api-key/x" } } }));
  orders.judged(verdictOf({ enforced: "allow" }));
  orders.judged(verdictOf({}, "lock"));
  t.same(orders.risks(), []);
  orders.judged(verdictOf());
  orders.judged(verdictOf({ decisionId: "d2", time: 2_000 }));
  t.same(
    orders.risks().map(({ id }) => id),
    ["d1"],
  );
  orders.told([]);
  t.equal(orders.risks().length, 1);
  orders.told(orders.risks());
  t.same(orders.risks(), []);
});
