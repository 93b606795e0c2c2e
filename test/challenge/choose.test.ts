import t from "tap";
import { chooseKind } from "../../src/challenge/choose.ts";
import { identify } from "../../src/identity/identify.ts";
import type { CertificateFacts, PresentedFacts, VerifiedToken } from "../../src/model/identity.ts";
import type { ChallengeKind, ChallengePolicy, IdentityPolicy } from "../../src/model/policy.ts";
import { POLICY, type RequestOptions, request } from "../support/requests.ts";

const NAME = "spiffe://td/billing";
const certificate: CertificateFacts = {
  via: "peer",
  sha256: "00",
  spiffeId: NAME,
  subject: undefined,
  issuer: undefined,
  serial: undefined,
  notBefore: undefined,
  notAfter: undefined,
  key: "EC P-256",
  x5tS256: "mine",
};
const ALL: readonly ChallengeKind[] = ["dpop", "http_signature", "certificate_bound", "step_up"];
const registering: Partial<IdentityPolicy> = {
  registeredKeys: [{ principals: [{ text: "**", test: (name) => name === NAME }], jwks: '{"keys":[]}' }],
};

function chosen(options: {
  token?: Partial<VerifiedToken> | "none";
  more?: Partial<PresentedFacts>;
  request?: RequestOptions;
  challenge?: Partial<ChallengePolicy>;
  identity?: Partial<IdentityPolicy>;
}): ChallengeKind {
  const made = request({ ...options.request, token: options.token === "none" ? {} : (options.token ?? {}) });
  const presented = {
    ...made.presented,
    ...(options.token === "none" ? { token: { kind: "absent" } as const } : {}),
    ...options.more,
  };
  const known = { ...POLICY.identity, ...options.identity };
  const policy = { ...POLICY.challenge, kinds: ALL, ...options.challenge };
  return chooseKind(policy, { ...made, presented }, identify(presented, known), known);
}

const cases: readonly { name: string; given: Parameters<typeof chosen>[0]; want: ChallengeKind }[] = [
  { name: "a token bound to a key is proved", given: { token: { boundKey: "jkt" } }, want: "dpop" },
  { name: "an unbound token is to be fresher", given: {}, want: "step_up" },
  { name: "the caller's own certificate signs", given: { more: { certificate } }, want: "http_signature" },
  { name: "also without a token", given: { token: "none", more: { certificate } }, want: "http_signature" },
  {
    name: "a proxy's report of it does not",
    given: { more: { certificate: { ...certificate, via: "xfcc" } } },
    want: "step_up",
  },
  {
    name: "nor one whose key is not known",
    given: { more: { certificate: { ...certificate, key: undefined } } },
    want: "step_up",
  },
  { name: "a registered key signs", given: { identity: registering }, want: "http_signature" },
  {
    name: "but not for a token that is bound to another",
    given: { token: { boundKey: "jkt" }, identity: registering, challenge: { kinds: ["http_signature", "step_up"] } },
    want: "step_up",
  },
  {
    name: "a token bound to the certificate can be asked for anew",
    given: {
      token: { boundCertificate: "mine" },
      more: { certificate },
      challenge: { kinds: ["certificate_bound", "step_up"] },
    },
    want: "certificate_bound",
  },
  {
    name: "and of an issuer that binds",
    given: {
      more: { certificate },
      challenge: { kinds: ["certificate_bound", "step_up"] },
      identity: {
        issuers: [
          {
            issuer: "https://issuer",
            audiences: [],
            jwks: { kind: "inline", keys: "" },
            algorithms: [],
            clockToleranceMs: 0,
            bindsCertificates: true,
          },
        ],
      },
    },
    want: "certificate_bound",
  },
  {
    name: "of others not",
    given: { more: { certificate }, challenge: { kinds: ["certificate_bound", "step_up"] } },
    want: "step_up",
  },
  {
    name: "a proof does not tell how the caller was authenticated",
    given: { token: { boundKey: "jkt" }, challenge: { acrValues: ["gold"] } },
    want: "step_up",
  },
  {
    name: "raw TCP has no place for one",
    given: { token: { boundKey: "jkt" }, request: { protocol: "tcp" } },
    want: "step_up",
  },
  {
    name: "who can answer none gets the last",
    given: { token: "none", challenge: { kinds: ["step_up", "dpop"] } },
    want: "dpop",
  },
  {
    name: "the service can be left to it at any time",
    given: { token: "none", challenge: { kinds: ["dpop", "forward"] } },
    want: "forward",
  },
  {
    name: "the order is the policy's",
    given: { token: { boundKey: "jkt" }, challenge: { kinds: ["step_up", "dpop"] } },
    want: "step_up",
  },
];
for (const { name, given, want } of cases) t.test(name, async (t) => t.equal(chosen(given), want));
