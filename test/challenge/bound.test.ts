import t from "tap";
import {
  authenticationFault,
  boundKeys,
  certificateBinding,
  isBound,
  type Presented,
} from "../../src/challenge/bound.ts";
import { type ProofKey, parseJwk } from "../../src/challenge/proof-key.ts";
import type { CertificateFacts, Identity, TokenFacts, VerifiedToken } from "../../src/model/identity.ts";
import { toEpochMs } from "../../src/model/units.ts";
import { testKey } from "../support/proofs.ts";

const NOW = toEpochMs(Date.parse("2026-03-02T12:00:00Z"));
const BILLING = "spiffe://prod/billing";

function proofKey(): ProofKey {
  const parsed = parseJwk(testKey().jwk);
  if (!parsed.ok) throw new Error(parsed.why);
  return parsed.key;
}
const own = proofKey();
const registered = proofKey();

const certificate: CertificateFacts = {
  via: "peer",
  sha256: "00",
  spiffeId: BILLING,
  subject: undefined,
  issuer: undefined,
  serial: undefined,
  notBefore: undefined,
  notAfter: undefined,
  key: "EC P-256",
  x5tS256: "own-certificate",
};
const token = (changes: Partial<VerifiedToken> = {}): TokenFacts => ({
  kind: "verified",
  id: "token:1",
  issuer: "https://issuer.example",
  subject: "billing",
  issuedAt: NOW,
  expiresAt: undefined,
  authenticatedAt: undefined,
  acr: undefined,
  boundCertificate: undefined,
  boundKey: undefined,
  actors: [],
  hasJti: true,
  ...changes,
});
const ABSENT: TokenFacts = { kind: "absent" };
const UNVERIFIED: TokenFacts = { kind: "unverified", why: "x", forged: false, id: "token:2" };
const identity = (changes: Partial<Identity> = {}): Identity => ({
  principal: { kind: "spiffe", name: BILLING },
  second: undefined,
  delegated: false,
  credential: "certificate:00",
  proven: true,
  ...changes,
});
const jwtIdentity = identity({ principal: { kind: "jwt", name: "https://issuer.example|billing" } });

const cases: readonly (readonly [name: string, changes: Partial<Presented>, want: readonly string[]])[] = [
  ["its own certificate's key and its registered keys", {}, ["certificate", "registered"]],
  ["the same beside a token that could not be verified", { token: UNVERIFIED }, ["certificate", "registered"]],
  [
    "registered keys only, when it has no certificate",
    { certificate: undefined, certificateKey: undefined, token: token(), identity: jwtIdentity },
    ["registered"],
  ],
  [
    "registered keys only, when a proxy reported the certificate",
    { certificate: { ...certificate, via: "xfcc" } },
    ["registered"],
  ],
  [
    "registered keys only, when the certificate names somebody else",
    { certificate: { ...certificate, spiffeId: undefined }, token: token(), identity: jwtIdentity },
    ["registered"],
  ],
  ["the token's key alone, when the token is bound to one", { token: token({ boundKey: "jkt" }) }, ["token_key"]],
  [
    "the certificate alone, when the token is bound to it",
    { token: token({ boundCertificate: "own-certificate" }) },
    ["token_certificate"],
  ],
  ["nothing, when the token is bound to another certificate", { token: token({ boundCertificate: "another" }) }, []],
  [
    "nothing, when the token names somebody else without delegation",
    { token: token(), identity: identity({ second: { kind: "jwt", name: "x" } }) },
    [],
  ],
  [
    "its own keys, when such a token is delegated",
    { token: token(), identity: identity({ second: { kind: "jwt", name: "x" }, delegated: true }) },
    ["certificate", "registered"],
  ],
  ["nothing, when it proved nothing", { identity: identity({ proven: false }) }, []],
];
for (const [name, changes, want] of cases) {
  t.test(`a principal is answered for by ${name}`, async (t) => {
    const presented: Presented = { identity: identity(), token: ABSENT, certificate, certificateKey: own, ...changes };
    t.same(
      boundKeys(presented, [registered]).map(({ by }) => by),
      want,
    );
  });
}

t.test("a token's key is at hand for signatures when it is registered or the certificate's", async (t) => {
  const presented = { identity: identity(), certificate, certificateKey: own };
  const keyOf = (jkt: string) => boundKeys({ ...presented, token: token({ boundKey: jkt }) }, [registered])[0]?.key;
  t.equal(keyOf(own.thumbprint), own);
  t.equal(keyOf(registered.thumbprint), registered);
  t.equal(keyOf("another"), undefined);
});

t.test("a token stands to the peer's certificate as its confirmation says", async (t) => {
  const bound = token({ boundCertificate: "own-certificate" });
  t.equal(certificateBinding(token(), certificate), "unbound");
  t.equal(certificateBinding(ABSENT, certificate), "unbound");
  t.equal(certificateBinding(bound, certificate), "matched");
  t.equal(certificateBinding(bound, undefined), "no_certificate");
  t.equal(certificateBinding(bound, { ...certificate, x5tS256: "another" }), "mismatched");
  t.same(
    [isBound(bound), isBound(token({ boundKey: "jkt" })), isBound(token()), isBound(ABSENT)],
    [true, true, false, false],
  );
});

const demands = [
  ["asks for nothing", {}, { acrValues: [], maxAgeSeconds: undefined }, undefined],
  [
    "asks for one of two classes",
    { acr: "gold" },
    { acrValues: ["silver", "gold"], maxAgeSeconds: undefined },
    undefined,
  ],
  ["asks for another class", { acr: "bronze" }, { acrValues: ["gold"], maxAgeSeconds: undefined }, "acr"],
  ["asks for a class, and there is none", {}, { acrValues: ["gold"], maxAgeSeconds: undefined }, "acr"],
  [
    "asks for an age just met",
    { authenticatedAt: toEpochMs(NOW - 60_000) },
    { acrValues: [], maxAgeSeconds: 60 },
    undefined,
  ],
  [
    "asks for an age just missed",
    { authenticatedAt: toEpochMs(NOW - 61_000) },
    { acrValues: [], maxAgeSeconds: 60 },
    "too_old",
  ],
  [
    "asks for an age, and only the issue is known",
    { issuedAt: toEpochMs(NOW - 61_000) },
    { acrValues: [], maxAgeSeconds: 60 },
    "too_old",
  ],
  ["asks for now, and the token is of this second", {}, { acrValues: [], maxAgeSeconds: 0 }, undefined],
  [
    "asks for an age, and no time is known",
    { issuedAt: undefined },
    { acrValues: [], maxAgeSeconds: 60 },
    "age_unknown",
  ],
  [
    "asks for an age, and the time lies ahead",
    { issuedAt: toEpochMs(NOW + 61_000) },
    { acrValues: [], maxAgeSeconds: 60 },
    "age_unknown",
  ],
] as const;
for (const [name, changes, demand, want] of demands) {
  t.test(`a step-up that ${name}: ${want ?? "satisfied"}`, async (t) => {
    t.equal(authenticationFault(token(changes), demand, NOW), want);
  });
}

t.test("no unverified token satisfies a step-up", async (t) => {
  t.equal(authenticationFault(UNVERIFIED, { acrValues: [], maxAgeSeconds: undefined }, NOW), "not_verified");
});
