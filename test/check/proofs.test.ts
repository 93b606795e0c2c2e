import t from "tap";
import { createLine } from "../../src/check/line.ts";
import type { RequestFacts } from "../../src/model/facts.ts";
import type { ProofFacts } from "../../src/model/identity.ts";
import type { Policy } from "../../src/model/policy.ts";
import { SECOND_MS, toEpochMs } from "../../src/model/units.ts";
import { countingBytes, NOON, POLICY, request } from "../support/requests.ts";

const NAME = "spiffe://td/billing";
const NONE: ProofFacts = { kind: "none" };
const FORGED: ProofFacts = { kind: "failed", method: "dpop", why: "key_not_bound", forged: true };
const REPLAYED: ProofFacts = { kind: "failed", method: "dpop", why: "replayed", forged: false };
const proved = (nonceAt?: number): ProofFacts => ({
  kind: "valid",
  method: "dpop",
  key: "jkt",
  nonce: nonceAt === undefined ? "absent" : "fresh",
  nonceIssuedAt: nonceAt === undefined ? undefined : toEpochMs(nonceAt),
});

function bound(proof: ProofFacts | undefined, seconds: number, address = "10.1.0.5"): RequestFacts {
  const made = request({
    at: NOON + seconds * SECOND_MS,
    issuedAt: NOON - 600_000,
    address,
    token: { boundKey: "jkt" },
  });
  return { ...made, presented: { ...made.presented, proof } };
}

const line = () => createLine({ principalsMax: 10, sessionsMax: 50, random: countingBytes() });
const requiring = (requireBoundProof: Policy["identity"]["requireBoundProof"]): Policy => ({
  ...POLICY,
  identity: { ...POLICY.identity, requireBoundProof },
});

const alone = [
  { name: "nobody looked", proof: undefined, require: "challenge", want: "allow" },
  { name: "a proof came", proof: proved(), require: "challenge", want: "allow" },
  { name: "none came", proof: NONE, require: "challenge", want: "challenge" },
  { name: "none came", proof: NONE, require: "deny", want: "deny" },
  { name: "none came", proof: NONE, require: "off", want: "allow" },
  { name: "a replay came", proof: REPLAYED, require: "challenge", want: "challenge" },
  { name: "a replay came", proof: REPLAYED, require: "deny", want: "deny" },
  {
    name: "a stale one came",
    proof: { kind: "stale", method: "dpop", why: "nonce stale" },
    require: "deny",
    want: "challenge",
  },
  { name: "a forged one came", proof: FORGED, require: "challenge", want: "deny" },
  { name: "a forged one came", proof: FORGED, require: "off", want: "deny" },
] as const;
for (const { name, proof, require, want } of alone) {
  t.test(`a bound token where ${name}, and the policy says ${require}`, async (t) => {
    const verdict = line().check(bound(proof, 0), requiring(require));
    t.equal(verdict.enforced, want);
    if (want === "challenge") t.match(verdict.decision, { challenge: { kind: "dpop" } });
  });
}

t.test("an answer passes at once, is learned, and lasts", async (t) => {
  const one = line();
  t.equal(one.check(bound(NONE, 0), POLICY).enforced, "challenge");
  const facts = bound(proved(NOON), 1);
  const verdict = one.check(facts, POLICY);
  t.match(verdict, { answered: true, enforced: "allow" });
  one.learn(facts, verdict);
  t.match(one.principals(), [{ principal: NAME }]);
  t.match(one.check(bound(proved(), 30), POLICY), { answered: false, enforced: "allow" });
});

t.test("a failed answer counts at once, and the last one allowed denies", async (t) => {
  const one = line();
  t.equal(one.check(bound(NONE, 0), POLICY).enforced, "challenge");
  const after = [1, 2, 3].map((seconds) => one.check(bound(REPLAYED, seconds), POLICY));
  t.equal(after.at(-1)?.enforced, "deny");
  t.ok(after[0]?.reasons.some(({ signal }) => signal === "challenge.unanswered"));
  t.match(
    one.check(bound(proved(NOON + 3_000), 4), POLICY),
    { answered: true, enforced: "allow" },
    "the owner gets back in",
  );
});

t.test("a thief's forgeries end the token where the thief is, and nowhere else", async (t) => {
  const one = line();
  const owner = bound(proved(), 0);
  one.learn(owner, one.check(owner, POLICY));
  const thief = [1, 2, 3].map((seconds) => one.check(bound(FORGED, seconds, "198.51.100.9"), POLICY).enforced);
  t.same(thief, ["deny", "deny", "terminate"]);
  t.match(one.locks.list(toEpochMs(NOON + 4_000)), [{ scope: { address: "198.51.100.9", principal: undefined } }]);
  t.equal(one.check(bound(proved(), 5), POLICY).enforced, "allow");
  t.match(one.principals(), [{ principal: NAME, requests: 1 }], "the thief taught nothing");
});

t.test("a stale nonce neither answers nor counts", async (t) => {
  const one = line();
  const stale: ProofFacts = { kind: "stale", method: "dpop", why: "nonce stale" };
  for (let seconds = 0; seconds < 30; seconds += 5)
    t.equal(one.check(bound(stale, seconds), POLICY).enforced, "challenge");
});
