import t from "tap";
import { identify } from "../../src/identity/identify.ts";
import type { PresentedFacts, VerifiedToken } from "../../src/model/identity.ts";
import type { IdentityPolicy } from "../../src/model/policy.ts";

const policy: IdentityPolicy = {
  issuers: [],
  xfccHops: [],
  apiKeyHeader: undefined,
  apiKeys: new Map(),
  trustedSpiffe: [],
  trustDomains: new Map(),
  delegations: [],
  singleUseIssuers: [],
};

const nothing: PresentedFacts = {
  certificate: undefined,
  peerSpiffeId: undefined,
  peerNameInvalid: undefined,
  token: { kind: "absent" },
  apiKey: { kind: "absent" },
  faults: [],
};

const certificate = {
  via: "peer",
  sha256: "c".repeat(64),
  spiffeId: "spiffe://td/billing",
  subject: undefined,
  issuer: undefined,
  serial: undefined,
  notBefore: undefined,
  notAfter: undefined,
  key: undefined,
  x5tS256: "x",
} as const;

function token(subject: string, more: Partial<VerifiedToken> = {}): VerifiedToken {
  return {
    kind: "verified",
    id: "token:1111",
    issuer: "https://issuer",
    subject,
    issuedAt: undefined,
    expiresAt: undefined,
    authenticatedAt: undefined,
    acr: undefined,
    boundCertificate: undefined,
    boundKey: undefined,
    actors: [],
    hasJti: true,
    ...more,
  };
}

const BILLING = { kind: "spiffe", name: "spiffe://td/billing" };

const cases = [
  {
    name: "nothing presented is anonymous and unproven",
    presented: nothing,
    want: { principal: { kind: "anonymous", name: "anonymous" }, credential: "none", proven: false },
  },
  {
    name: "a verified certificate names its SPIFFE ID",
    presented: { ...nothing, certificate, peerSpiffeId: "spiffe://td/billing" },
    want: { principal: BILLING, second: undefined, credential: `certificate:${"c".repeat(64)}`, proven: true },
  },
  {
    name: "Envoy's word for the peer is enough without the certificate",
    presented: { ...nothing, peerSpiffeId: "spiffe://td/billing" },
    want: { principal: BILLING, credential: "none", proven: true },
  },
  {
    name: "behind a listed hop the reported caller counts, not the hop",
    presented: {
      ...nothing,
      peerSpiffeId: "spiffe://td/gateway",
      certificate: { ...certificate, via: "xfcc" } as const,
    },
    want: { principal: BILLING, proven: true },
  },
  {
    name: "a verified token alone names issuer and subject",
    presented: { ...nothing, token: token("billing") },
    want: { principal: { kind: "jwt", name: "https://issuer|billing" }, credential: "token:1111", proven: true },
  },
  {
    name: "an unverified token names nobody",
    presented: { ...nothing, token: { kind: "unverified", why: "x", forged: true, id: "token:2222" } as const },
    want: { principal: { kind: "anonymous", name: "anonymous" }, credential: "token:2222", proven: false },
  },
  {
    name: "a known API key names its id",
    presented: { ...nothing, apiKey: { kind: "known", id: "key:3333", name: "partner" } as const },
    want: { principal: { kind: "api_key", name: "api-key/partner" }, credential: "key:3333", proven: true },
  },
  {
    name: "an unknown API key names nobody",
    presented: { ...nothing, apiKey: { kind: "unknown", id: "key:4444" } as const },
    want: { principal: { kind: "anonymous", name: "anonymous" }, credential: "key:4444", proven: false },
  },
  {
    name: "certificate and token of the same workload name one principal",
    presented: { ...nothing, certificate, peerSpiffeId: "spiffe://td/billing", token: token("spiffe://td/billing") },
    want: { principal: BILLING, second: undefined, delegated: false, credential: "token:1111" },
  },
  {
    name: "certificate and token of different subjects name two",
    presented: { ...nothing, certificate, peerSpiffeId: "spiffe://td/billing", token: token("alice") },
    want: { principal: BILLING, second: { kind: "jwt", name: "https://issuer|alice" }, delegated: false },
  },
  {
    name: "the issuer's own act claim declares delegation",
    presented: {
      ...nothing,
      certificate,
      peerSpiffeId: "spiffe://td/billing",
      token: token("alice", { actors: ["spiffe://td/billing", "other"] }),
    },
    want: { delegated: true },
  },
  {
    name: "an act chain whose outermost actor is somebody else does not",
    presented: {
      ...nothing,
      certificate,
      peerSpiffeId: "spiffe://td/billing",
      token: token("alice", { actors: ["other", "spiffe://td/billing"] }),
    },
    want: { delegated: false },
  },
];
for (const { name, presented, want } of cases) {
  t.test(name, async (t) => {
    t.match(identify(presented, policy), want);
  });
}

t.test("delegation that the policy declares is legitimate, for that caller and subject only", async (t) => {
  const presented = { ...nothing, certificate, peerSpiffeId: "spiffe://td/billing", token: token("alice") };
  const declared = (caller: RegExp, subject: RegExp) =>
    identify(presented, { ...policy, delegations: [{ caller, subject }] }).delegated;
  t.equal(declared(/^spiffe:\/\/td\/billing$/, /^alice$/), true);
  t.equal(declared(/^spiffe:\/\/td\/billing$/, /^https:\/\/issuer\|alice$/), true);
  t.equal(declared(/^spiffe:\/\/td\/other$/, /^alice$/), false);
  t.equal(declared(/^spiffe:\/\/td\/billing$/, /^bob$/), false);
});
