import fc from "fast-check";
import t from "tap";
import { createLine } from "../../src/check/line.ts";
import { createReplay, type ReplayRow } from "../../src/check/replay.ts";
import type { RequestFacts } from "../../src/model/facts.ts";
import type { Line } from "../../src/model/line.ts";
import { HOUR_MS, MINUTE_MS } from "../../src/model/units.ts";
import type { Verdict } from "../../src/model/verdict.ts";
import { countingBytes, NOON, POLICY, request } from "../support/requests.ts";

const line = (): Line => createLine({ principalsMax: 1_000, sessionsMax: 2_000, random: countingBytes() });

function pass(one: Line, facts: RequestFacts): Verdict {
  const verdict = one.check(facts, POLICY);
  one.learn(facts, verdict);
  return verdict;
}

/** Days of ordinary work by some principals, so that memory is seasoned. */
function seasoned(): Line {
  const one = line();
  for (let i = 0; i < 400; i++) {
    for (const name of ["billing", "search", "cart", "users"]) {
      const path = `/orders/${i % 3 === 0 ? "list" : i}`;
      pass(one, request({ at: NOON - 60 * HOUR_MS + i * 9 * MINUTE_MS, principal: `spiffe://td/${name}`, path }));
    }
  }
  return one;
}

const anyRow = fc.record({
  principal: fc.constantFrom("spiffe://td/a", "spiffe://td/b", "spiffe://td/c"),
  credential: fc.constantFrom("t1", "t2", "t3"),
  source_address: fc.constantFrom("10.0.0.1", "10.0.0.2", "203.0.113.9", "198.51.100.7", null),
  user_agent: fc.constantFrom("a/1.0", "b/2.0", "curl/8.0", null),
  tls_fingerprint: fc.constantFrom("t13d1312h2_f57a46bbacb6_ab7e3b40a677", "other", null),
  method: fc.constantFrom("GET", "POST"),
  host: fc.constantFrom("orders", "users"),
  path: fc.constantFrom("/", "/orders", "/orders/17", "/admin", "/v1/secrets/9"),
  status: fc.constantFrom(200, 404, 403, 500, null),
  response_bytes: fc.constantFrom(100, 5_000_000, null),
  answers_challenge: fc.boolean(),
  stepMs: fc.integer({ min: 0, max: 2 * HOUR_MS }),
});

function rowsOf(drawn: readonly (Omit<ReplayRow, "time"> & { stepMs: number })[]): ReplayRow[] {
  let now = NOON;
  return drawn.map(({ stepMs, ...row }) => {
    now += stepMs;
    return { ...row, time: new Date(now).toISOString() };
  });
}

t.test("the same rows replay to the same decisions; points sum to each score; every score is 0 to 100", async () => {
  fc.assert(
    fc.property(
      fc.array(anyRow, { maxLength: 60 }),
      fc.constantFrom("callee" as const, "fleet" as const),
      (drawn, view) => {
        const rows = rowsOf(drawn);
        const options = { policy: POLICY, answers: "rows", observe: false, view } as const;
        const [one, two] = [createReplay(options), createReplay(options)];
        return rows.every((row) => {
          const decision = one.row(row);
          const points = decision.reasons.reduce((sum, reason) => sum + reason.points, 0);
          return (
            JSON.stringify(decision) === JSON.stringify(two.row(row)) &&
            decision.score >= 0 &&
            decision.score <= 100 &&
            (decision.reasons.length === 0 || Math.abs(points - decision.score) < 0.05)
          );
        });
      },
    ),
    { numRuns: 60 },
  );
});

t.test("observing the same rows enforces nothing", async () => {
  fc.assert(
    fc.property(fc.array(anyRow, { maxLength: 40 }), (drawn) => {
      const one = line();
      const policy = { ...POLICY, mode: "observe" as const, signal: POLICY.signal };
      return drawn.every(({ source_address, path, principal }, i) => {
        const facts = request({ at: NOON + i, principal, path, address: source_address ?? undefined });
        const verdict = one.check(facts, policy);
        one.learn(facts, verdict);
        return verdict.enforced === "allow";
      });
    }),
    { numRuns: 30 },
  );
});

const SCAN = Array.from({ length: 12 }, (_, i) => `/new-${i}/call`);

t.test("a run of new routes by a settled caller is challenged; one new route is not", async (t) => {
  const one = seasoned();
  const verdicts = SCAN.map((path, i) => pass(one, request({ at: NOON + i * 1_000, path })));
  t.equal(verdicts[0]?.decision.kind, "allow");
  t.ok(
    verdicts.some(({ decision }) => decision.kind === "challenge"),
    verdicts.map(({ score }) => score).join(" "),
  );
});

t.test("routes that only others use count against a caller as well", async (t) => {
  const one = line();
  for (let i = 0; i < 400; i++) {
    const at = NOON - 60 * HOUR_MS + i * 9 * MINUTE_MS;
    pass(one, request({ at, path: "/orders" }));
    pass(one, request({ at, principal: "spiffe://td/admin", path: SCAN[i % SCAN.length] as string }));
  }
  const verdict = pass(one, request({ at: NOON, path: SCAN[0] as string }));
  t.match(verdict.reasons[0], { signal: "usage.route", seen: "route of others GET /new-0/call" });
});

t.test("the same new route again in the same session is not new evidence", async (t) => {
  const one = seasoned();
  const bits = Array.from({ length: 6 }, (_, i) => {
    const { reasons } = pass(one, request({ at: NOON + i * 1_000, path: "/new/call" }));
    return reasons.find(({ signal }) => signal === "usage.route")?.bits ?? 0;
  });
  t.ok((bits[0] as number) > 3, bits.join(" "));
  t.equal(Math.max(...bits), bits[0]);
});

t.test("memory younger than an hour challenges and does not deny who answers", async (t) => {
  const one = line();
  let denied = 0;
  for (let i = 0; i < 300; i++) {
    const facts = request({ at: NOON + i * 1_000, path: `/thing-${i}/part` });
    const verdict = one.check(facts, POLICY);
    if (verdict.enforced === "challenge") one.answer(facts, verdict, true);
    one.learn(facts, verdict);
    if (verdict.enforced === "deny" || verdict.enforced === "terminate") denied++;
  }
  t.equal(denied, 0);
});

t.test("what was denied teaches nothing: the next ordinary request scores as before", async (t) => {
  const one = seasoned();
  const calm = pass(one, request({ at: NOON, path: "/orders/list" })).score;
  const thief = { address: "203.0.113.9", agent: "curl/8.0", credential: "stolen", ja4: "other" };
  for (let i = 0; i < 20; i++) {
    const facts = request({ ...thief, at: NOON + (i + 1) * 5_000, path: `/admin/${i}/x` });
    const verdict = one.check(facts, POLICY);
    if (verdict.enforced === "challenge") one.answer(facts, verdict, false);
    one.learn(facts, verdict);
  }
  const routes = one.principals().find(({ principal }) => principal === "spiffe://td/billing");
  t.equal(routes?.features.find(({ feature }) => feature === "address")?.values, 1);
  t.equal(pass(one, request({ at: NOON + 3 * MINUTE_MS, path: "/orders/list" })).score, calm);
});

t.test("a restored line judges new credentials exactly as the line that it was copied from", async (t) => {
  const one = seasoned();
  const two = line();
  two.restore(one.snapshot(request().time));
  for (let i = 0; i < 40; i++) {
    const at = NOON + 2 * HOUR_MS + i * 1_000;
    const where = { address: `10.1.0.${i % 7}`, credential: `new-${i % 7}` };
    const facts = request({ at, ...where, path: i % 4 === 0 ? `/new-${i}/x` : "/orders/list" });
    const [a, b] = [pass(one, facts), pass(two, facts)];
    t.same({ score: b.score, reasons: b.reasons }, { score: a.score, reasons: a.reasons }, `request ${i}`);
  }
});
