/** Tests what rules change on the line: signals, challenges, who is told what. */

import t from "tap";
import { compilePolicy } from "../../src/bundle/compile-document.ts";
import { parsePolicy } from "../../src/bundle/parse.ts";
import { formatProblem } from "../../src/bundle/problem.ts";
import { createLine } from "../../src/check/line.ts";
import type { Policy } from "../../src/model/policy.ts";
import { SECOND_MS } from "../../src/model/units.ts";
import { countingBytes, NOON, type RequestOptions, request } from "../support/requests.ts";

const line = () => createLine({ principalsMax: 100, sessionsMax: 100, random: countingBytes() });

/** An address that is worth 14 bits: some 42 points for whom nothing is known of. */
const LISTED: RequestOptions = { address: "203.0.113.9" };
const lists = { addresses: [{ name: "proxies", bits: 14, ranges: ["203.0.113.0/24"] }] };

function policyOf(spec: Record<string, unknown>): Policy {
  const text = JSON.stringify({
    apiVersion: "sallyport.dev/v1",
    kind: "Policy",
    metadata: { name: "a" },
    spec: { lists, ...spec },
  });
  const parsed = parsePolicy(text, "policy.json");
  if (!parsed.ok) throw new Error(parsed.problems.map(formatProblem).join("\n"));
  const compiled = compilePolicy(parsed.document, new Map(), "r");
  if (!compiled.ok) throw new Error(compiled.problems.map(formatProblem).join("\n"));
  return compiled.policy;
}

t.test("a rule's signals count for what it matches, over the policy's", async (t) => {
  const policy = policyOf({
    signals: { "reputation.address": { capBits: 12 } },
    rules: [
      { name: "quiet", match: { routes: ["/quiet"] }, signals: { reputation: { mode: "observe" } } },
      { name: "capped", match: { routes: ["/capped"] }, signals: { "reputation.address": { capBits: 1 } } },
    ],
  });
  const bits = (path: string) => {
    const { score, reasons } = line().check(request({ ...LISTED, path }), policy);
    return { score: score > 0, bits: reasons.find(({ signal }) => signal === "reputation.address")?.bits };
  };
  t.same(bits("/other"), { score: true, bits: 12 });
  t.same(bits("/quiet"), { score: false, bits: 12 }, "shown, with the policy's cap, and not counted");
  t.same(bits("/capped"), { score: true, bits: 1 });
});

t.test("the score and readings decide which rule counts", async (t) => {
  const policy = policyOf({
    rules: [
      { name: "listed", when: 'score > 20 && readings["reputation.address"] >= 14', decision: "deny" },
      { name: "grouped", when: 'principal.peer_group == "workers"', watch: true },
    ],
    peerGroups: [{ name: "workers", principals: ["spiffe://td/**"] }],
  });
  t.match(line().check(request(LISTED), policy), { rule: "listed", decision: { kind: "deny" }, peerGroup: "workers" });
  t.match(line().check(request(), policy), { rule: "grouped", decision: { kind: "allow" }, watch: true });
});

t.test("a verdict names the rules whose conditions failed", async (t) => {
  const policy = policyOf({ rules: [{ name: "broken", when: "1 / request.bytes == 1", decision: "allow" }] });
  t.match(line().check(request(), policy), { rule: "default", conditionErrors: ["broken"] });
  t.equal(line().check(request(), policyOf({})).conditionErrors, undefined);
});

t.test("a rule's challenge is put and answered on its own terms", async (t) => {
  const policy = policyOf({
    rules: [{ name: "strong", match: { routes: ["/strong"] }, challenge: { acrValues: ["gold"], maxAge: "1m" } }],
  });
  const one = line();
  const strong = { ...LISTED, path: "/strong" };
  t.match(one.check(request(strong), policy).decision, {
    challenge: { kind: "step_up", acrValues: ["gold"], maxAgeSeconds: 60 },
  });
  const fresh = { ...strong, at: NOON + 5 * SECOND_MS, issuedAt: NOON + 5 * SECOND_MS, credential: "fresh" };
  t.equal(one.check(request(fresh), policy).answered, false, "a token without the context");
  const gold = {
    ...LISTED,
    at: NOON + 9 * SECOND_MS,
    issuedAt: NOON + 9 * SECOND_MS,
    credential: "g",
    token: { acr: "gold" },
  };
  t.equal(
    one.check(request({ ...gold, path: "/other" }), policy).answered,
    true,
    "whatever rule counts for the answer",
  );
});

t.test("an answer to a weaker challenge is none to a stronger one", async (t) => {
  const policy = policyOf({
    rules: [
      { name: "strong", match: { routes: ["/strong"] }, decision: "challenge", challenge: { acrValues: ["gold"] } },
      { name: "weak", match: { routes: ["/weak"] }, decision: "challenge" },
    ],
  });
  const one = line();
  t.equal(one.check(request({ path: "/weak" }), policy).enforced, "challenge");
  const fresh = { at: NOON + 5 * SECOND_MS, issuedAt: NOON + 5 * SECOND_MS, credential: "fresh" };
  t.match(one.check(request({ ...fresh, path: "/weak" }), policy), { answered: true, enforced: "allow" });
  t.equal(one.check(request({ ...fresh, path: "/strong" }), policy).enforced, "challenge");
  const gold = { at: NOON + 9 * SECOND_MS, issuedAt: NOON + 9 * SECOND_MS, credential: "gold", token: { acr: "gold" } };
  t.match(one.check(request({ ...gold, path: "/strong" }), policy), { answered: true, enforced: "allow" });
});

t.test("a forwarded challenge lets through, is never ignored, and stands still until it is answered", async (t) => {
  const policy = policyOf({ challenge: { kinds: ["forward"] } });
  const one = line();
  for (let round = 0; round < 6; round++) {
    const facts = request({ ...LISTED, at: NOON + round * 10 * SECOND_MS, issuedAt: NOON - 600_000 });
    const verdict = one.check(facts, policy);
    t.match(verdict, {
      enforced: "allow",
      decision: { kind: "challenge", challenge: { kind: "forward", issuedAfter: NOON } },
    });
    one.learn(facts, verdict);
  }
  t.equal(one.stats().principals, 0, "nothing is learned of it");
  const fresh = { ...LISTED, at: NOON + 70 * SECOND_MS, issuedAt: NOON + SECOND_MS, credential: "fresh" };
  t.match(one.check(request(fresh), policy), { answered: true });
});

t.test("a forwarded challenge does not take the place of one that was put", async (t) => {
  const policy = policyOf({ rules: [{ name: "own", match: { routes: ["/own"] }, challenge: { kinds: ["forward"] } }] });
  const one = line();
  t.equal(one.check(request(LISTED), policy).enforced, "challenge");
  t.equal(
    one.check(request({ ...LISTED, at: NOON + 5 * SECOND_MS, path: "/own" }), policy).enforced,
    "deny",
    "it was ignored",
  );
});

t.test("a rule's response goes with its verdicts", async (t) => {
  const policy = policyOf({
    response: { headers: { "X-A": "1", "X-B": "2" }, deny: { text: "no" } },
    rules: [
      {
        name: "r",
        match: { routes: ["/r"] },
        response: { revealReasons: true, headers: { "x-b": "3" }, challenge: { text: '{"id": "{decision_id}"}' } },
      },
    ],
  });
  t.equal(line().check(request(), policy).response, undefined);
  const { response } = line().check(request({ path: "/r" }), policy);
  t.same(response && { ...response, headers: [...(response.headers ?? [])] }, {
    revealReasons: true,
    upstreamHeaders: true,
    headers: [
      ["x-a", "1"],
      ["x-b", "3"],
    ],
    bodies: {
      deny: { contentType: "text/plain; charset=utf-8", text: "no", grpcMessage: undefined },
      challenge: { contentType: "application/problem+json", text: '{"id": "{decision_id}"}', grpcMessage: undefined },
    },
  });
});
