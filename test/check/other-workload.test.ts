/** Tests what an address that belongs to another workload says of a caller, and where it says nothing. */

import fc from "fast-check";
import t from "tap";
import { createLine } from "../../src/check/line.ts";
import { playBack, type RecordedEvent, recording } from "../../src/check/recording.ts";
import { ADDRESS_GRACE_MS } from "../../src/check/workload-table.ts";
import type { RequestFacts } from "../../src/model/facts.ts";
import type { Line } from "../../src/model/line.ts";
import type { Policy } from "../../src/model/policy.ts";
import { HOUR_MS, MINUTE_MS, toEpochMs } from "../../src/model/units.ts";
import type { Verdict } from "../../src/model/verdict.ts";
import type { Workload } from "../../src/model/workloads.ts";
import { countingBytes, NOON, POLICY, request } from "../support/requests.ts";

const NAMES = ["billing", "search", "cart", "users", "gateway", "stock", "mail"] as const;
const spiffe = (name: string): string => `spiffe://td/${name}`;
const addressOf = (name: string): string => `10.1.0.${NAMES.indexOf(name as (typeof NAMES)[number]) + 1}`;

const podOf = (name: string): Workload => ({
  uid: `uid-${name}`,
  principals: [spiffe(name)],
  addresses: [addressOf(name)],
  shared: false,
  common: { namespace: "shop", image_digest: `sha256:${name}` },
  own: { pod: `${name}-0` },
});

const START = NOON - 60 * HOUR_MS;

const from = (name: string, at: number, more: Parameters<typeof request>[0] = {}): RequestFacts =>
  request({ at, principal: spiffe(name), address: addressOf(name), path: "/orders", ...more });

function pass(line: Line, facts: RequestFacts, policy: Policy = POLICY): Verdict {
  line.workloads.confirm(facts.time);
  const verdict = line.check(facts, policy);
  line.learn(facts, verdict);
  return verdict;
}

/** Two and a half days in which everybody calls from its own pod, or as `route` says. */
function seasoned(route: (name: string) => string = addressOf): Line {
  const line = createLine({ principalsMax: 1_000, sessionsMax: 2_000, random: countingBytes() });
  line.workloads.change({ first: true, last: true, put: NAMES.map(podOf), removed: [] }, toEpochMs(START - HOUR_MS));
  for (let i = 0; i < 240; i++) {
    for (const name of NAMES) pass(line, from(name, START + i * 15 * MINUTE_MS, { address: route(name) }));
  }
  return line;
}

const bitsOf = (verdict: Verdict): number =>
  verdict.reasons.find(({ signal }) => signal === "posture.other_workload")?.bits ?? 0;

t.test(
  "a credential used from another workload's pod is evidence, with both named; alone it is no challenge",
  async (t) => {
    const line = seasoned();
    const verdict = pass(line, from("billing", NOON, { address: addressOf("search") }));
    const reason = verdict.reasons.find(({ signal }) => signal === "posture.other_workload");
    t.match(reason, {
      seen: "10.1.0.2 is pod shop/search-0 of spiffe://td/search",
      expected: "a pod of spiffe://td/billing",
    });
    t.ok(bitsOf(verdict) > 7 && bitsOf(verdict) <= 10, String(bitsOf(verdict)));
    const alone = {
      ...POLICY,
      signal: (name: string) =>
        name.startsWith("origin.") || name === "credential.moved" ? { mode: "off" as const, capBits: 0 } : undefined,
    };
    const other = seasoned();
    const only = pass(other, from("billing", NOON, { address: addressOf("search") }), alone);
    t.equal(only.decision.kind, "allow", `score ${only.score}`);
    t.ok(only.score > 20, `score ${only.score}`);
  },
);

t.test("with a new address and a moved credential it is a challenge", async (t) => {
  const line = seasoned();
  const verdict = pass(line, from("billing", NOON, { address: addressOf("search") }));
  t.equal(verdict.decision.kind, "challenge", `score ${verdict.score}`);
});

t.test("its own pod, and a table that nobody filled, say nothing", async (t) => {
  t.equal(bitsOf(pass(seasoned(), from("billing", NOON))), 0);
  const empty = createLine({ principalsMax: 10, sessionsMax: 10, random: countingBytes() });
  t.equal(bitsOf(pass(empty, from("billing", NOON, { address: addressOf("search") }))), 0);
});

const silent: readonly { name: string; facts: RequestFacts; when?: (line: Line) => void }[] = [
  { name: "an address of no pod", facts: from("billing", NOON, { address: "10.1.0.77" }) },
  { name: "no address at all", facts: from("billing", NOON, { address: undefined }) },
  {
    name: "a principal that is no workload here",
    facts: request({ at: NOON, principal: "spiffe://td/elsewhere", address: addressOf("search") }),
  },
  {
    name: "a pod on its node's network",
    facts: from("billing", NOON, { address: addressOf("search") }),
    when: (line) =>
      line.workloads.change(
        { first: false, last: true, put: [{ ...podOf("search"), shared: true }], removed: [] },
        toEpochMs(START),
      ),
  },
  {
    name: "an address that another pod got just now",
    facts: from("billing", NOON, { address: addressOf("search") }),
    when: (line) =>
      line.workloads.change(
        {
          first: false,
          last: true,
          put: [{ ...podOf("search"), uid: "uid-new", principals: [spiffe("users")] }],
          removed: ["uid-search"],
        },
        toEpochMs(NOON - ADDRESS_GRACE_MS + 1),
      ),
  },
  {
    name: "a certificate that a hop reported",
    facts: (() => {
      const facts = from("billing", NOON, { address: addressOf("gateway") });
      const certificate = {
        via: "xfcc" as const,
        sha256: "a".repeat(64),
        spiffeId: spiffe("billing"),
        subject: undefined,
        issuer: undefined,
        serial: undefined,
        notBefore: undefined,
        notAfter: undefined,
        key: undefined,
        x5tS256: "x",
      };
      return { ...facts, presented: { ...facts.presented, certificate, peerSpiffeId: spiffe("gateway") } };
    })(),
  },
];
for (const { name, facts, when } of silent) {
  t.test(`nothing is said of ${name}`, async (t) => {
    const line = seasoned();
    when?.(line);
    t.equal(bitsOf(pass(line, facts)), 0);
  });
}

t.test("nothing is said once changes are being missed, or nothing was confirmed for too long", async (t) => {
  const line = seasoned();
  const facts = from("billing", NOON, { address: addressOf("search") });
  line.workloads.confirm(facts.time);
  line.workloads.confirm(undefined);
  t.equal(bitsOf(line.check(facts, POLICY)), 0);
  const other = seasoned();
  other.workloads.confirm(toEpochMs(NOON - 10 * MINUTE_MS));
  t.equal(bitsOf(other.check(facts, POLICY)), 0);
});

t.test(
  "callers that have always come through a gateway are not accused, and those beside them still are",
  async (t) => {
    const behind = new Set(["billing", "search"]);
    const line = seasoned((name) => (behind.has(name) ? addressOf("gateway") : addressOf(name)));
    t.ok(bitsOf(pass(line, from("billing", NOON, { address: addressOf("gateway") }))) < 1.5);
    t.ok(bitsOf(pass(line, from("users", NOON, { address: addressOf("cart") }))) > 3);
  },
);

t.test("a principal whose callers' addresses are passed on (X-Forwarded-For) comes to say nothing", async (t) => {
  let turn = 0;
  const line = seasoned((name) => (name === "gateway" ? addressOf(NAMES[turn++ % 4]!) : addressOf(name)));
  t.ok(bitsOf(pass(line, from("gateway", NOON, { address: addressOf("users") }))) < 1.5);
});

t.test("when many principals show the same address at once, the way has changed and not a caller", async (t) => {
  const line = seasoned();
  const bits: number[] = [];
  for (const [i, name] of ["billing", "search", "cart", "users", "stock", "mail"].entries()) {
    bits.push(bitsOf(pass(line, from(name, NOON + i * 1_000, { address: addressOf("gateway") }))));
  }
  t.ok(bits[0]! > 7, bits.join(" "));
  t.ok(bits[4]! < 2, `the fifth is put down to the common cause: ${bits.join(" ")}`);
});

t.test("a policy can turn it off, only show it, and cap it", async (t) => {
  const facts = from("billing", NOON, { address: addressOf("search") });
  const under = (mode: "off" | "observe" | "enforce", capBits: number): Policy => ({
    ...POLICY,
    signal: (name) => (name === "posture.other_workload" ? { mode, capBits } : undefined),
  });
  t.equal(bitsOf(pass(seasoned(), facts, under("off", 10))), 0);
  const shown = pass(seasoned(), facts, under("observe", 10));
  t.ok(bitsOf(shown) > 7);
  t.equal(shown.reasons.find(({ signal }) => signal === "posture.other_workload")?.points, 0);
  t.equal(bitsOf(pass(seasoned(), facts, under("enforce", 2))), 2);
});

t.test("facts of the cluster forbid as stated ones do, and older statements keep their age", async (t) => {
  const line = seasoned();
  const posture = {
    ...POLICY.posture,
    forbid: [{ name: "old", fact: "image_digest", operator: "in" as const, values: ["sha256:cart"] }],
  };
  const policy = { ...POLICY, posture, signal: POLICY.signal };
  t.match(pass(line, from("cart", NOON), policy).decision, { kind: "deny", because: "posture.forbidden" });
  t.equal(pass(line, from("billing", NOON), policy).decision.kind, "allow");
  line.posture.put(spiffe("billing"), {
    facts: { attested: "true" },
    source: "scanner",
    reportedAtMs: NOON - 5 * HOUR_MS,
  });
  const verdict = pass(line, from("billing", NOON), policy);
  t.match(
    verdict.reasons.find(({ signal }) => signal === "posture.unknown"),
    { seen: "posture 300 minutes old" },
  );
});

t.test("an answered challenge discharges it, as it does an origin", async (t) => {
  const line = seasoned();
  const facts = from("billing", NOON, { address: addressOf("search") });
  const verdict = pass(line, facts);
  line.answer(facts, verdict, true);
  t.equal(bitsOf(pass(line, from("billing", NOON + 1_000, { address: addressOf("search") }))), 0);
});

t.test(
  "judging anew, and asking what would be, teach nothing and accuse no stream whose address went to another pod",
  async (t) => {
    const line = seasoned();
    const opened = from("billing", NOON);
    pass(line, opened);
    line.workloads.change(
      {
        first: false,
        last: true,
        put: [{ ...podOf("search"), uid: "uid-new", addresses: [addressOf("billing")] }],
        removed: ["uid-billing"],
      },
      toEpochMs(NOON + 1),
    );
    line.workloads.change(
      {
        first: false,
        last: true,
        put: [{ ...podOf("billing"), uid: "uid-two", addresses: ["10.1.0.99"] }],
        removed: [],
      },
      toEpochMs(NOON + 1),
    );
    const later = { ...opened, time: toEpochMs(NOON + HOUR_MS) };
    line.workloads.confirm(later.time);
    t.equal(bitsOf(line.review(later, POLICY)), 0);
    const [one, two] = [line.preview(later, POLICY), line.preview(later, POLICY)];
    t.ok(bitsOf(one) > 7);
    t.same(one, two);
  },
);

t.test("law: a recording with pods in it plays back to the same verdicts", async () => {
  const step = fc.record({
    name: fc.constantFrom(...NAMES),
    by: fc.constantFrom(...NAMES),
    what: fc.constantFrom("request", "request", "request", "move", "confirm", "miss", "clear"),
    stepMs: fc.integer({ min: 0, max: 3 * MINUTE_MS }),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const events: RecordedEvent[] = [];
      const sizes = { principalsMax: 100, sessionsMax: 100 };
      const line = recording(createLine({ ...sizes, random: countingBytes() }), (event) => events.push(event));
      line.workloads.change({ first: true, last: true, put: NAMES.map(podOf), removed: [] }, toEpochMs(NOON - HOUR_MS));
      let at = NOON;
      for (const { name, by, what, stepMs } of steps) {
        at += stepMs;
        if (what === "move")
          line.workloads.change(
            { first: false, last: true, put: [{ ...podOf(name), addresses: [addressOf(by)] }], removed: [] },
            toEpochMs(at),
          );
        else if (what === "confirm") line.workloads.confirm(toEpochMs(at));
        else if (what === "miss") line.workloads.confirm(undefined);
        else if (what === "clear") line.workloads.clear();
        else {
          const facts = from(name, at, { address: addressOf(by) });
          line.learn(facts, line.check(facts, POLICY));
        }
      }
      const written = events.map((event) => JSON.parse(JSON.stringify(event)) as RecordedEvent);
      return playBack(written, new Map([[POLICY.revision, POLICY]]), sizes).differences.length === 0;
    }),
    { numRuns: 60 },
  );
});
