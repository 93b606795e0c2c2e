import t from "tap";
import { answerOf, lacksProof } from "../../src/challenge/answer.ts";
import { identify } from "../../src/identity/identify.ts";
import type { ProofFacts, VerifiedToken } from "../../src/model/identity.ts";
import type { ChallengeKind } from "../../src/model/policy.ts";
import { SECOND_MS, toEpochMs } from "../../src/model/units.ts";
import type { OpenChallenge } from "../../src/sessions/session.ts";
import { NOON, POLICY, request } from "../support/requests.ts";

const open = (kind: ChallengeKind): OpenChallenge => ({
  issuedAtMs: NOON,
  issuedAfterMs: NOON,
  expiresAtMs: NOON + 300 * SECOND_MS,
  credential: "token:of spiffe://td/billing",
  score: 30,
  kind,
  policy: POLICY.challenge,
});

function facts(proof: ProofFacts | undefined, token: Partial<VerifiedToken> = {}, at = NOON + 5 * SECOND_MS) {
  const made = request({ at, token: { boundKey: "jkt", ...token } });
  return { ...made, presented: { ...made.presented, proof } };
}

const valid = (nonceAt: number | undefined, method: "dpop" | "http_signature" = "dpop"): ProofFacts => ({
  kind: "valid",
  method,
  key: "jkt",
  nonce: nonceAt === undefined ? "absent" : "fresh",
  nonceIssuedAt: nonceAt === undefined ? undefined : toEpochMs(nonceAt),
});
const failed = (why: string, forged: boolean): ProofFacts => ({ kind: "failed", method: "dpop", why, forged });

const cases = [
  { name: "a proof with a nonce of the very moment answers", kind: "dpop", proof: valid(NOON), want: "answered" },
  { name: "one with a nonce from before does neither", kind: "dpop", proof: valid(NOON - 1), want: "other" },
  { name: "one without a nonce is no answer", kind: "dpop", proof: valid(undefined), want: "missing" },
  { name: "no proof is no answer", kind: "dpop", proof: { kind: "none" }, want: "missing" },
  { name: "nobody having looked is no answer", kind: "dpop", proof: undefined, want: "missing" },
  {
    name: "a stale proof does neither",
    kind: "dpop",
    proof: { kind: "stale", method: "dpop", why: "nonce stale" },
    want: "other",
  },
  { name: "another key fails", kind: "dpop", proof: failed("key_not_bound", true), want: "failed" },
  { name: "a replay fails", kind: "dpop", proof: failed("replayed", false), want: "failed" },
  { name: "a proof does not sign", kind: "http_signature", proof: valid(NOON), want: "missing" },
  {
    name: "a signature answers where one was asked for",
    kind: "http_signature",
    proof: valid(NOON, "http_signature"),
    want: "answered",
  },
  { name: "a proof is no fresher token", kind: "step_up", proof: valid(NOON), want: "missing" },
] as const satisfies readonly { name: string; kind: ChallengeKind; proof: ProofFacts | undefined; want: string }[];
for (const { name, kind, proof, want } of cases) {
  t.test(name, async (t) => {
    const asked = facts(proof);
    t.equal(answerOf(open(kind), asked, identify(asked.presented, POLICY.identity), false), want);
  });
}

t.test("the key answers wherever its token was used before; a copied token does not", async (t) => {
  const proved = facts(valid(NOON));
  t.equal(answerOf(open("dpop"), proved, identify(proved.presented, POLICY.identity), true), "answered");
  const fresh = request({ at: NOON + 5 * SECOND_MS, issuedAt: NOON + SECOND_MS, credential: "fresh" });
  const identity = identify(fresh.presented, POLICY.identity);
  t.equal(answerOf(open("step_up"), fresh, identity, false), "answered");
  t.equal(answerOf(open("step_up"), fresh, identity, true), "missing");
});

t.test("after its end a challenge is not answered", async (t) => {
  const late = facts(valid(NOON), {}, NOON + 301 * SECOND_MS);
  t.equal(answerOf(open("dpop"), late, identify(late.presented, POLICY.identity), false), "other");
});

t.test("a fresh token must be bound to the certificate where that is asked for", async (t) => {
  const certificate = {
    via: "peer",
    sha256: "00",
    spiffeId: "spiffe://td/billing",
    subject: undefined,
    issuer: undefined,
    serial: undefined,
    notBefore: undefined,
    notAfter: undefined,
    key: "EC P-256",
    x5tS256: "mine",
  } as const;
  const answer = (boundCertificate: string | undefined): string => {
    const made = request({
      at: NOON + 5 * SECOND_MS,
      issuedAt: NOON + SECOND_MS,
      credential: "fresh",
      token: { boundCertificate },
    });
    const asked = { ...made, presented: { ...made.presented, certificate } };
    return answerOf(open("certificate_bound"), asked, identify(asked.presented, POLICY.identity), false);
  };
  t.same([answer("mine"), answer("other"), answer(undefined)], ["answered", "missing", "missing"]);
});

t.test("which tokens lack their proof", async (t) => {
  t.equal(lacksProof(facts({ kind: "none" })), true);
  t.equal(lacksProof(facts(valid(undefined))), false, "a nonce is not needed");
  t.equal(lacksProof(facts(valid(undefined), { boundKey: "other" })), true);
  t.equal(lacksProof(facts(failed("replayed", false))), true);
  t.equal(lacksProof(facts({ kind: "none" }, { boundKey: undefined })), false, "not bound");
  t.equal(lacksProof(facts(undefined)), false, "nobody looked: recordings and replays");
});
