/** Tests that open streams are judged anew when something changes, and that only those end that would be refused now. */

import t from "tap";
import { createLine } from "../../src/check/line.ts";
import type { Line } from "../../src/model/line.ts";
import type { Policy } from "../../src/model/policy.ts";
import { HOUR_MS, MINUTE_MS, SECOND_MS, toEpochMs } from "../../src/model/units.ts";
import type { Verdict } from "../../src/model/verdict.ts";
import { OpenStreams } from "../../src/streams/open-streams.ts";
import { Overseer } from "../../src/streams/overseer.ts";
import { countingBytes, NOON, POLICY, type RequestOptions, request } from "../support/requests.ts";

const ADDRESSES: Readonly<Record<string, string>> = { billing: "10.1.0.5", web: "10.1.0.6" };
const LATER = NOON + 30 * MINUTE_MS;

const caller = (name: string): RequestOptions => ({
  principal: `spiffe://td/${name}`,
  address: ADDRESSES[name],
  agent: `${name}/1.0 Go-http-client/2.0`,
});

/** Two callers that have worked for a while, and what holds their streams. */
function world(policy: Policy = POLICY) {
  let current = policy;
  const line: Line = createLine({ principalsMax: 100, sessionsMax: 100, random: countingBytes() });
  const streams = new OpenStreams({ streamsMax: 100, awaitedMax: 100, awaitedMs: MINUTE_MS });
  const ended: string[] = [];
  const overseer = new Overseer({
    streams,
    line,
    policy: () => current,
    onEnd: ({ stream, because }) => ended.push(`${stream.verdict.identity.principal.name.slice(12)} ${because}`),
  });
  const send = (options: RequestOptions, status = 200, bytes = 500): Verdict => {
    const facts = request(options);
    const verdict = line.check(facts, current);
    line.learn(facts, verdict);
    if (verdict.enforced === "allow") line.outcome(outcome(verdict, facts.time, "end", bytes, status));
    return verdict;
  };
  for (let i = 0; i < 400; i++) {
    for (const name of ["billing", "web"]) {
      send({ ...caller(name), at: NOON + i * SECOND_MS, path: i % 2 === 0 ? "/orders" : `/orders/${i}` });
    }
  }
  /** Opens a stream that is held. */
  const open = (options: RequestOptions): Verdict => {
    const facts = request({ path: "/orders", ...options });
    const verdict = line.check(facts, current);
    line.learn(facts, verdict);
    streams.expect(facts, verdict);
    t.equal(streams.attach(verdict.decisionId, facts.time, () => {}).kind, "held");
    return verdict;
  };
  return {
    line,
    overseer,
    streams,
    ended,
    send,
    open,
    setPolicy: (next: Policy) => {
      current = next;
    },
  };
}

function outcome(verdict: Verdict, time: number, stage: "periodic" | "end", bytes: number, status = 200) {
  return {
    time: toEpochMs(time),
    decisionId: verdict.decisionId,
    requestId: undefined,
    status,
    grpcStatus: undefined,
    responseBytes: bytes,
    requestBytes: undefined,
    durationMs: 1,
    stage,
  };
}

t.test("a credential that turns out stolen elsewhere costs the thief its streams, not the owner", async (t) => {
  const { open, send, overseer, ended, streams } = world();
  open({ ...caller("billing"), at: LATER });
  let last: Verdict | undefined;
  for (let i = 0; i < 8; i++) {
    last = send({ ...caller("billing"), at: LATER + i * 10 * SECOND_MS, address: "203.0.113.9", agent: "curl/8.5.0" });
    overseer.judged(last, toEpochMs(LATER + i * 10 * SECOND_MS));
  }
  t.equal(last?.decision.kind, "terminate");
  overseer.locked(toEpochMs(LATER + 2 * MINUTE_MS));
  t.same(ended, []);
  t.equal(streams.size, 1);
});

t.test("a thief within the workload loses the streams of the session, once it is denied", async (t) => {
  const { open, send, overseer, ended } = world();
  open({ ...caller("billing"), at: LATER });
  open({ ...caller("web"), at: LATER });
  let kind = "allow";
  for (let i = 0; i < 120 && kind !== "deny"; i++) {
    const at = LATER + i * SECOND_MS;
    const verdict = send({ ...caller("billing"), at, path: `/admin/secret-${i}/keys`, method: "DELETE" }, 403);
    kind = verdict.decision.kind;
    overseer.judged(verdict, toEpochMs(at));
  }
  t.equal(kind, "deny");
  t.same(ended, ["billing score"]);
});

t.test("a stream ends with the token that opened it, unless policy lets it live", async (t) => {
  const cases = [
    { endWithCredential: true, want: ["billing expired"] },
    { endWithCredential: false, want: [] },
  ];
  for (const { endWithCredential, want } of cases) {
    const { open, overseer, ended } = world({ ...POLICY, streams: { ...POLICY.streams, endWithCredential } });
    const expiresAt = toEpochMs(LATER + HOUR_MS);
    open({ ...caller("billing"), at: LATER, token: { expiresAt } });
    overseer.sweep(toEpochMs(expiresAt - 1), 10);
    t.same(ended, [], "a moment before");
    overseer.sweep(expiresAt, 10);
    t.same(ended, want);
  }
});

t.test("posture that policy forbids ends the streams of its subject", async (t) => {
  const forbid = [{ name: "vulnerable", fact: "compliant", operator: "in" as const, values: ["false"] }];
  const { line, open, overseer, ended } = world({ ...POLICY, posture: { ...POLICY.posture, forbid } });
  open({ ...caller("billing"), at: LATER });
  open({ ...caller("web"), at: LATER });
  line.posture.put("spiffe://td/web", { facts: { compliant: "false" }, source: "scanner", reportedAtMs: LATER + 1 });
  overseer.stated("spiffe://td/web", toEpochMs(LATER + 1));
  t.same(ended, ["web posture.forbidden"]);
});

t.test("a policy that denies from now on ends what it would deny, round by round", async (t) => {
  const { open, overseer, ended, setPolicy } = world();
  for (let i = 0; i < 5; i++) open({ ...caller("billing"), at: LATER + i });
  const closed: Policy["rules"][number] = {
    name: "closed",
    match: { destinations: [], routes: [], methods: [], principals: [], peerGroups: [] },
    decision: "deny",
    mode: undefined,
    thresholds: undefined,
    watch: undefined,
    when: undefined,
    signal: undefined,
    challenge: undefined,
    response: undefined,
  };
  setPolicy({ ...POLICY, rules: [closed] });
  overseer.sweep(toEpochMs(LATER + SECOND_MS), 3);
  t.equal(ended.length, 3);
  overseer.sweep(toEpochMs(LATER + 2 * SECOND_MS), 3);
  t.same([...new Set(ended)], ["billing rule closed"]);
  t.equal(ended.length, 5);
});

t.test("what a stream carries counts while it is open", async (t) => {
  const { line, open, overseer, ended } = world({ ...POLICY, streams: { ...POLICY.streams, endOnChallenge: true } });
  const stream = open({ ...caller("billing"), at: LATER });
  for (let i = 1; i <= 30 && ended.length === 0; i++) {
    const at = LATER + i * 10 * SECOND_MS;
    line.outcome(outcome(stream, at, "periodic", 10 ** (3 + i)));
    overseer.reported(stream.decisionId, toEpochMs(at));
  }
  t.same(ended, ["billing challenge"]);
});

t.test("in observe mode nothing that is open ends", async (t) => {
  const { line, open, overseer, streams, ended } = world({ ...POLICY, mode: "observe" });
  open({ ...caller("billing"), at: LATER });
  line.locks.add({
    id: "one",
    scope: { principal: "spiffe://td/billing" },
    reason: "test",
    setBy: "operator",
    setAtMs: LATER,
    expiresAtMs: undefined,
  });
  overseer.locked(toEpochMs(LATER));
  overseer.sweep(toEpochMs(LATER + 24 * HOUR_MS), 10);
  t.same(ended, []);
  t.equal(streams.size, 1);
});

t.test("judging a stream anew teaches and counts nothing", async (t) => {
  const [one, two] = [world(), world()];
  for (const each of [one, two]) each.open({ ...caller("billing"), at: LATER });
  for (let i = 0; i < 200; i++) one.overseer.sweep(toEpochMs(LATER + i), 10);
  const next: RequestOptions = { ...caller("billing"), at: LATER + MINUTE_MS, path: "/reports/7", agent: "other/2" };
  t.same(one.send(next), two.send(next));
});

t.test("a forged or unverified token costs the principal that it names neither streams nor peace", async (t) => {
  for (const forged of [true, false]) {
    const { line, open, overseer, ended, streams } = world();
    open({ ...caller("billing"), at: LATER });
    for (let i = 0; i < 20; i++) {
      const facts = request({ ...caller("billing"), at: LATER + i * 5 * SECOND_MS, address: "203.0.113.9" });
      const presented = {
        ...facts.presented,
        peerSpiffeId: undefined,
        token: { kind: "unverified" as const, why: "token signature does not verify", forged, id: "token:copied" },
      };
      const verdict = line.check({ ...facts, presented }, POLICY);
      line.learn(facts, verdict);
      overseer.judged(verdict, facts.time);
      overseer.locked(facts.time);
      t.not(verdict.identity.principal.name, "spiffe://td/billing");
    }
    t.same(ended, []);
    t.equal(streams.size, 1);
    const own = line.check(request({ ...caller("billing"), at: LATER + 3 * MINUTE_MS }), POLICY);
    t.equal(own.decision.kind, "allow");
    t.ok(own.score < 10, `score ${own.score}`);
  }
});
