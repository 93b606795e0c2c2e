import fc from "fast-check";
import t from "tap";
import { createLine } from "../../src/check/line.ts";
import type { RequestFacts } from "../../src/model/facts.ts";
import type { Line } from "../../src/model/line.ts";
import type { Policy } from "../../src/model/policy.ts";
import { HOUR_MS, MINUTE_MS, SECOND_MS, toEpochMs } from "../../src/model/units.ts";
import type { Verdict } from "../../src/model/verdict.ts";
import { countingBytes, NOON, POLICY, type RequestOptions, request } from "../support/requests.ts";

function line(options: { principalsMax?: number; sessionsMax?: number } = {}): Line {
  return createLine({ principalsMax: 1_000, sessionsMax: 1_000, random: countingBytes(), ...options });
}

function pass(one: Line, facts: RequestFacts, policy: Policy = POLICY, status = 200, bytes = 500): Verdict {
  const verdict = one.check(facts, policy);
  one.learn(facts, verdict);
  if (verdict.enforced === "allow") {
    one.outcome({
      time: facts.time,
      decisionId: verdict.decisionId,
      requestId: undefined,
      status,
      grpcStatus: undefined,
      responseBytes: bytes,
      requestBytes: undefined,
      durationMs: 1,
      stage: "end",
    });
  }
  return verdict;
}

/** Three callers at work for some minutes: what every test below starts from. */
function workedIn(policy: Policy = POLICY): Line {
  const one = line();
  for (let i = 0; i < 200; i++) {
    for (const name of ["billing", "web", "reports"]) {
      pass(
        one,
        request({ ...caller(name), at: NOON + i * 2 * SECOND_MS, path: i % 2 === 0 ? "/orders" : `/orders/${i}` }),
        policy,
      );
    }
  }
  return one;
}

const ADDRESSES: Readonly<Record<string, string>> = { billing: "10.1.0.5", web: "10.1.0.6", reports: "10.1.0.7" };

function caller(name: string): RequestOptions {
  return {
    principal: `spiffe://td/${name}`,
    address: ADDRESSES[name] ?? "10.1.0.9",
    agent: `${name}/1.0 Go-http-client/2.0`,
  };
}

const LATER = NOON + 20 * MINUTE_MS;
const thief: RequestOptions = {
  address: "203.0.113.66",
  agent: "curl/8.0",
  ja4: "t13d3112h1_e8f1e7e78f70_b26ce05bbdd6",
};

t.test("ordinary callers are allowed", async (t) => {
  const one = workedIn();
  t.equal(pass(one, request({ at: LATER })).decision.kind, "allow");
});

t.test("a stolen token elsewhere is challenged, then denied, then terminated; its owner works on", async (t) => {
  const one = workedIn();
  const decisions = [0, 3, 6, 9].map(
    (seconds) => pass(one, request({ ...thief, at: LATER + seconds * SECOND_MS })).enforced,
  );
  t.same(decisions, ["challenge", "deny", "terminate", "terminate"]);
  t.equal(pass(one, request({ at: LATER + 10 * SECOND_MS })).enforced, "allow");
  t.match(one.locks.list(toEpochMs(LATER + 10 * SECOND_MS)), [
    { setBy: "auto", scope: { address: "203.0.113.66", credential: "token:of spiffe://td/billing" } },
  ]);
});

t.test("requests under way when the challenge was put are challenged too, not blamed", async (t) => {
  const one = workedIn();
  const decisions = [0, 500, 1_900].map((ms) => pass(one, request({ ...thief, at: LATER + ms })).enforced);
  t.same(decisions, ["challenge", "challenge", "challenge"]);
});

t.test("a token issued after the challenge answers it, once; the old one does not", async (t) => {
  const one = workedIn();
  pass(one, request({ ...thief, at: LATER }));
  const answer = pass(
    one,
    request({ ...thief, at: LATER + SECOND_MS, credential: "new", issuedAt: LATER + SECOND_MS }),
  );
  t.match(answer, { enforced: "allow", answered: true });
  t.match(pass(one, request({ ...thief, at: LATER + 2 * SECOND_MS, credential: "new", issuedAt: LATER + SECOND_MS })), {
    enforced: "allow",
    answered: false,
  });
});

t.test("a fresher token that its owner used elsewhere before is a copy and no answer", async (t) => {
  const one = workedIn();
  pass(one, request({ ...thief, at: LATER }));
  const fresh = { credential: "fresh", issuedAt: LATER + SECOND_MS };
  t.equal(pass(one, request({ ...fresh, at: LATER + 2 * SECOND_MS })).enforced, "allow", "the owner's own");
  t.match(pass(one, request({ ...thief, ...fresh, at: LATER + 3 * SECOND_MS })), {
    enforced: "challenge",
    answered: false,
  });
});

t.test("an owner that could not answer at first gets back in with its next token, hours later", async (t) => {
  const one = workedIn();
  const moved = { address: "203.0.113.80", agent: "billing-ng/1", ja4: "t13d3112h1_e8f1e7e78f70_b26ce05bbdd6" };
  const refused = Array.from(
    { length: 100 },
    (_, i) =>
      pass(one, request({ ...moved, at: LATER + i * 2 * MINUTE_MS, credential: "old", issuedAt: LATER })).enforced,
  );
  t.notOk(refused.includes("allow"));
  const at = LATER + 201 * MINUTE_MS;
  t.match(pass(one, request({ ...moved, at, credential: "next", issuedAt: at - SECOND_MS })), {
    enforced: "allow",
    answered: true,
  });
});

t.test("another token issued before the challenge is no answer", async (t) => {
  const one = workedIn();
  pass(one, request({ ...thief, at: LATER }));
  const other = pass(one, request({ ...thief, at: LATER + SECOND_MS, credential: "old", issuedAt: LATER - SECOND_MS }));
  t.match(other, { enforced: "challenge", answered: false });
});

t.test("observe mode lets the thief pass and says what would have happened", async (t) => {
  const observe: Policy = { ...POLICY, mode: "observe" };
  const one = workedIn(observe);
  t.match(pass(one, request({ ...thief, at: LATER }), observe), {
    enforced: "allow",
    decision: { kind: "challenge" },
    mode: "observe",
  });
});

t.test("what is denied or unanswered never becomes ordinary", async (t) => {
  const one = workedIn();
  const first = one.check(request({ ...thief, at: LATER }), POLICY).score;
  for (let day = 0; day < 5; day++) {
    for (let hour = 0; hour < 6; hour++)
      pass(one, request({ ...thief, at: LATER + day * 24 * HOUR_MS + hour * HOUR_MS }));
  }
  const last = one.check(request({ ...thief, at: LATER + 6 * 24 * HOUR_MS, credential: "x" }), POLICY);
  t.ok(last.score >= 26, `still ${last.score} after five days, ${first} at first`);
});

t.test("a token of its own subject in other hands is worth a reason, and the more so the rarer that is", async (t) => {
  const one = workedIn();
  const copied = pass(one, request({ ...caller("web"), at: LATER, credential: "of spiffe://td/billing" }));
  t.ok(
    copied.reasons.some(({ signal, bits }) => signal === "credential.shared" && bits > 3),
    JSON.stringify(copied.reasons),
  );
});

t.test(
  "a token for single use is refused the second time, but not when Envoy asks twice about one request",
  async (t) => {
    const policy: Policy = { ...POLICY, identity: { ...POLICY.identity, singleUseIssuers: ["https://issuer"] } };
    const one = line();
    const use = (requestId: string) => pass(one, request({ at: NOON, credential: "once", requestId }), policy).enforced;
    t.same([use("first"), use("first"), use("second")], ["allow", "allow", "deny"]);
  },
);

t.test("an unverified token never touches the memory of whom it names", async (t) => {
  const one = workedIn();
  const before = JSON.stringify(one.principals());
  const forged = request({ at: LATER });
  pass(one, {
    ...forged,
    presented: {
      ...forged.presented,
      peerSpiffeId: undefined,
      token: {
        kind: "unverified",
        why: "signed with a key that the issuer does not publish",
        forged: false,
        id: "token:9",
      },
    },
  });
  t.equal(JSON.stringify(one.principals()), before);
});

t.test("a slow thief makes at most eight new routes a day its own", async (t) => {
  const one = workedIn();
  const day = NOON + 24 * HOUR_MS;
  for (let hour = 0; hour < 10; hour++) {
    for (let i = 0; i < 20; i++) {
      const at = day + hour * HOUR_MS + i * 3 * MINUTE_MS;
      const facts = request({ at, path: `/drift-${String.fromCharCode(97 + i)}`, credential: `hour-${hour}` });
      pass(one, facts, { ...POLICY, mode: "observe" });
    }
  }
  const billing = one.principals().find(({ principal }) => principal === "spiffe://td/billing");
  const routes = billing?.features.find(({ feature }) => feature === "route")?.values ?? 0;
  t.ok(routes <= 2 + 8, `${routes} routes`);
});

t.test("a lock terminates whatever the score, until it is taken away or expires", async (t) => {
  const one = workedIn();
  const lock = {
    id: "l1",
    scope: { principal: "spiffe://td/web" },
    reason: "incident",
    setBy: "operator",
    setAtMs: LATER,
    expiresAtMs: LATER + MINUTE_MS,
  };
  one.locks.add(lock);
  const web = (at: number) => pass(one, request({ ...caller("web"), at }));
  t.match(web(LATER), { enforced: "terminate", score: 100, reasons: [{ signal: "lock" }] });
  t.equal(web(LATER + MINUTE_MS - 1).enforced, "terminate");
  t.equal(web(LATER + MINUTE_MS).enforced, "allow");
  t.equal(one.locks.remove("l1"), true);
  t.equal(one.locks.remove("l1"), false);
});

t.test("locks of the policy hold beside the table's", async (t) => {
  const lock = {
    id: "p1",
    scope: { address: "10.1.0.0/24", destination: "orders.shop.example" },
    reason: "closed",
    setBy: "policy",
    setAtMs: 0,
    expiresAtMs: NOON + MINUTE_MS,
  };
  const policy: Policy = { ...POLICY, locks: [lock] };
  const one = line();
  const at = (options: RequestOptions) => pass(one, request(options), policy).enforced;
  t.equal(at({}), "terminate");
  t.equal(at({ address: "10.1.1.5" }), "allow");
  t.equal(at({ host: "stock.shop.example" }), "allow");
  t.equal(at({ at: NOON + MINUTE_MS }), "allow");
});

t.test("a lock without any scope, or with a bad range, is refused", async (t) => {
  const one = line();
  const lock = { id: "x", reason: "", setBy: "operator", setAtMs: 0, expiresAtMs: undefined };
  t.throws(() => one.locks.add({ ...lock, scope: {} }), { code: "ERR_LOCK_INVALID" });
  t.throws(() => one.locks.add({ ...lock, scope: { address: "10.0.0.0/33" } }), { code: "ERR_LOCK_INVALID" });
});

t.test("ten thousand minted names push out neither each other's bounds nor an established principal", async (t) => {
  const one = line({ principalsMax: 100, sessionsMax: 100 });
  for (let i = 0; i < 50; i++) pass(one, request({ at: NOON + i * SECOND_MS }));
  for (let i = 0; i < 10_000; i++) {
    pass(one, request({ at: NOON + MINUTE_MS + i, principal: `spiffe://td/minted-${i}`, credential: `c${i}` }));
  }
  const { principals, sessions, evictedPrincipals } = one.stats();
  t.ok(principals <= 100 && sessions <= 100, `${principals} principals, ${sessions} sessions`);
  t.ok(evictedPrincipals >= 9_000);
  t.ok(one.principals().some(({ principal }) => principal === "spiffe://td/billing"));
});

t.test("a path scan leaves a bounded number of routes", async (t) => {
  const one = line();
  const observe: Policy = { ...POLICY, mode: "observe" };
  for (let i = 0; i < 5_000; i++)
    pass(one, request({ at: NOON + i * 10, path: `/scan-${i.toString(36)}/x` }), observe, 404);
  const [billing] = one.principals();
  const routes = billing?.features.find(({ feature }) => feature === "route");
  t.ok((routes?.values ?? 0) <= 48, `${routes?.values} routes`);
});

t.test("baselines judge the same after a snapshot and a restore", async (t) => {
  const one = workedIn();
  const bytes = one.snapshot(toEpochMs(LATER));
  const two = line();
  two.restore(bytes);
  // Sessions and the whereabouts of credentials end with the process: a credential of its own keeps them out of this.
  for (const options of [
    {},
    { ...thief, credential: "fresh" },
    { path: "/admin/export" },
    { principal: "spiffe://td/stranger" },
  ]) {
    const facts = request({ ...options, at: LATER + 2 * HOUR_MS });
    const [left, right] = [one.check(facts, POLICY), two.check(facts, POLICY)];
    t.same([right.score, right.decision.kind], [left.score, left.decision.kind], JSON.stringify(options));
  }
});

t.test("a prior starts another line warm and names no principal", async (t) => {
  const taught = workedIn();
  const prior = taught.snapshot(toEpochMs(LATER), "prior");
  t.notMatch(Buffer.from(prior).toString("utf8"), /spiffe:/);
  const warm = line();
  warm.restore(prior);
  t.equal(warm.stats().principals, 0);
  // Twenty requests of a caller nobody knows, then one from elsewhere: how odd that is, others have taught.
  const score = (one: Line): number => {
    for (let i = 0; i < 20; i++) pass(one, request({ ...caller("new"), at: LATER + i * SECOND_MS }));
    return one.check(request({ ...caller("new"), ...thief, at: LATER + MINUTE_MS }), POLICY).score;
  };
  const [warmScore, taughtScore, coldScore] = [score(warm), score(taught), score(line())];
  t.equal(warmScore, taughtScore);
  t.not(warmScore, coldScore);
});

t.test("score bands tell what was promised and what was seen", async (t) => {
  const one = workedIn();
  pass(one, request({ ...thief, at: LATER }));
  const [band] = one.scoreBands([30]);
  t.match(band, { score: 30, promised: 0.001, requests: 1 });
  t.ok((band?.observed ?? 0) > 0 && (band?.observed ?? 1) < 0.01);
  t.equal(one.stats().scored, 601);
});

for (const [name, damage] of [
  ["torn", (bytes: Uint8Array) => bytes.subarray(0, bytes.length - 10)],
  ["changed", (bytes: Uint8Array) => bytes.map((byte, i) => (i === bytes.length - 5 ? byte ^ 1 : byte))],
  ["foreign", () => new TextEncoder().encode("something else\n{}")],
  ["empty", () => new Uint8Array()],
] as const) {
  t.test(`a ${name} state is refused and memory stays as it was`, async (t) => {
    const one = workedIn();
    const before = JSON.stringify(one.principals());
    t.throws(() => one.restore(damage(one.snapshot(toEpochMs(LATER)))), { code: "ERR_STATE_INVALID" });
    t.equal(JSON.stringify(one.principals()), before);
  });
}

const anything = fc.record({
  at: fc.integer({ min: NOON, max: NOON + 48 * HOUR_MS }),
  principal: fc.constantFrom("spiffe://td/a", "spiffe://td/b", "spiffe://td/c"),
  credential: fc.constantFrom("1", "2", "3"),
  address: fc.constantFrom("10.0.0.1", "10.0.0.2", "192.0.2.1", "2001:db8::1", undefined),
  agent: fc.constantFrom("a/1", "a/2", "b/1"),
  path: fc.oneof(
    fc.constantFrom("/", "/orders", "/orders/1"),
    fc.string({ maxLength: 60 }).map((text) => `/${text}`),
  ),
});

t.test(
  "any stream of requests gives the same decisions twice, points that sum to the score, scores in 0..100",
  async () => {
    fc.assert(
      fc.property(fc.array(anything, { maxLength: 60 }), (stream) => {
        const ordered = [...stream].sort((a, b) => a.at - b.at);
        const play = () => {
          const one = line();
          return ordered.map((options) => pass(one, request(options)));
        };
        const [first, second] = [play(), play()];
        return first.every((verdict, i) => {
          const sum = verdict.reasons.reduce((total, { points }) => total + points, 0);
          return (
            JSON.stringify(verdict) === JSON.stringify(second[i]) &&
            verdict.score >= 0 &&
            verdict.score <= 100 &&
            Math.abs(sum - verdict.score) < 0.05
          );
        });
      }),
      { numRuns: 60 },
    );
  },
);

t.test("more ordinary callers than there is memory for are no strangers when they return", async (t) => {
  const one = line({ principalsMax: 10 });
  const refused: string[] = [];
  const call = (i: number, at: number): void => {
    const verdict = pass(one, request({ principal: `spiffe://td/caller-${i}`, address: `10.2.0.${i}`, at }));
    if (verdict.enforced !== "allow") refused.push(`${verdict.enforced}: ${verdict.reasons[0]?.seen}`);
  };
  // A rolling start: each calls for a while and becomes established, the next ones have begun before it goes.
  for (let second = 0; second < 1_000; second++) {
    for (let i = 0; i < 30; i++) if (second >= i * 5 && second < i * 5 + 100) call(i, NOON + second * SECOND_MS);
  }
  for (let turn = 1; turn < 4; turn++) {
    for (let i = 0; i < 30; i++) {
      for (let k = 0; k < 100; k++) call(i, NOON + turn * HOUR_MS + i * MINUTE_MS + (k * SECOND_MS) / 2);
    }
  }
  t.ok(one.stats().evictedPrincipals > 50, "memory was full all the while");
  t.same(refused, []);

  // Nor after a restart: who was forgotten is known by name from the snapshot.
  const restarted = line({ principalsMax: 10 });
  restarted.restore(one.snapshot(toEpochMs(NOON + 4 * HOUR_MS)));
  const verdicts = Array.from({ length: 30 }, (_, i) =>
    restarted.check(
      request({ principal: `spiffe://td/caller-${i}`, address: `10.2.0.${i}`, at: NOON + 4 * HOUR_MS }),
      POLICY,
    ),
  );
  t.same(
    verdicts.filter(({ enforced }) => enforced !== "allow").map(({ reasons }) => reasons[0]?.seen),
    [],
  );
});

t.test("a burst of one caller at a cold start is ordinary, however late it is learned from", async (t) => {
  const one = line();
  const burst = Array.from({ length: 40 }, (_, i) => {
    const facts = request({ principal: i < 20 ? "spiffe://td/a" : "spiffe://td/b", at: NOON + i, path: "/orders/1" });
    return { facts, verdict: one.check(facts, POLICY) };
  });
  // Their answers are on their way before anything of them is learned, but for the first of each.
  for (const first of [burst[0], burst[20]]) if (first !== undefined) one.learn(first.facts, first.verdict);
  const next = Array.from({ length: 40 }, (_, i) =>
    one.check(
      request({ principal: i < 20 ? "spiffe://td/a" : "spiffe://td/b", at: NOON + 100 + i, path: "/orders/1" }),
      POLICY,
    ),
  );
  t.same(
    next
      .filter(({ enforced }) => enforced !== "allow")
      .map(({ reasons }) => `${reasons[0]?.signal} ${reasons[0]?.seen}`),
    [],
  );
});
