import { createPrivateKey } from "node:crypto";
import { create, toBinary } from "@bufbuild/protobuf";
import t from "tap";
import { createPki } from "../../scripts/pki.ts";
import { tokenHash } from "../../src/challenge/dpop.ts";
import { Nonces } from "../../src/challenge/nonce.ts";
import { Caller } from "../../src/client/caller.ts";
import { readProof } from "../../src/envoy/proof-facts.ts";
import { Proofs } from "../../src/envoy/proofs.ts";
import { RequestMemory, readRequest } from "../../src/envoy/request.ts";
import { CheckRequestSchema } from "../../src/gen/envoy/service/auth/v3/external_auth_pb.ts";
import type { TokenFacts } from "../../src/model/identity.ts";
import type { Policy } from "../../src/model/policy.ts";
import { certificateOf, element, hex, objectIdentifier, pemOf, sequence } from "../support/der.ts";
import { proofOf, testKey } from "../support/proofs.ts";
import { NOON, POLICY, request } from "../support/requests.ts";

const key = testKey();
const pki = await createPki();
const web = await pki.issue({ spiffeId: "spiffe://td/web" });
const ABSENT: TokenFacts = { kind: "absent" };
const bound = request({ at: NOON, token: { boundKey: key.jkt } }).presented.token;
const unbound = request({ at: NOON }).presented.token;

function createProofs(): Proofs {
  const nowMs = { value: NOON - 60_000 };
  const proofs = new Proofs({
    nonces: new Nonces(new Uint8Array(32).fill(7)),
    now: () => nowMs.value,
    randomBytes: (bytes) => new Uint8Array(bytes),
    key: new Uint8Array(32),
  });
  nowMs.value = NOON;
  return proofs;
}

interface Asked {
  readonly certificate?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly tls?: boolean;
  readonly scheme?: string;
  readonly method?: string;
  readonly path?: string;
}

function read({
  certificate = web.certPem,
  headers = {},
  tls = true,
  scheme = "",
  method = "GET",
  path = "/a?b=c",
}: Asked) {
  const message = create(CheckRequestSchema, {
    attributes: {
      ...(tls ? { source: { principal: "spiffe://td/web", certificate: encodeURIComponent(certificate) } } : {}),
      request: { http: { method, path, host: "orders.example:8443", scheme, headers } },
    },
  });
  return readRequest(toBinary(CheckRequestSchema, message), new RequestMemory(4), []);
}

const proof = (claims: Record<string, unknown> = {}, by = key): string =>
  proofOf(by, {
    jti: "j",
    htm: "GET",
    htu: "https://orders.example:8443/a",
    iat: NOON / 1_000,
    ath: tokenHash("tok"),
    ...claims,
  });
const sent = (dpop: string, more: Asked = {}): Asked => ({ ...more, headers: { authorization: "DPoP tok", dpop } });

const cases: readonly { name: string; asked: Asked; token?: TokenFacts; policy?: Policy; want: unknown }[] = [
  { name: "no proof for a bound token", asked: { headers: { authorization: "DPoP tok" } }, want: { kind: "none" } },
  { name: "a proof without nonce", asked: sent(proof()), want: { kind: "valid", key: key.jkt, nonce: "absent" } },
  { name: "a nonce that is none", asked: sent(proof({ nonce: "x" })), want: { kind: "valid", nonce: "unknown" } },
  {
    name: "another key",
    asked: sent(proof({}, testKey())),
    want: { kind: "failed", why: "key_not_bound", forged: true },
  },
  {
    name: "another token",
    asked: sent(proof({ ath: tokenHash("other") })),
    want: { kind: "failed", why: "token_hash", forged: false },
  },
  { name: "another method", asked: sent(proof(), { method: "PUT" }), want: { kind: "failed", why: "method" } },
  {
    name: "http for https",
    asked: sent(proof({ htu: "http://orders.example:8443/a" })),
    want: { kind: "failed", why: "uri" },
  },
  {
    name: "http where there is no TLS",
    asked: sent(proof({ htu: "http://orders.example:8443/a" }), { tls: false }),
    want: { kind: "valid" },
  },
  {
    name: "the request's scheme where Envoy ends no TLS",
    asked: sent(proof(), { tls: false, scheme: "https" }),
    want: { kind: "valid" },
  },
  {
    name: "a public origin of the policy's",
    asked: sent(proof({ htu: "https://api.example/a" })),
    policy: { ...POLICY, challenge: { ...POLICY.challenge, publicOrigins: ["https://api.example"] } },
    want: { kind: "valid" },
  },
  {
    name: "a public origin of nobody's",
    asked: sent(proof({ htu: "https://api.example/a" })),
    want: { kind: "failed", why: "uri" },
  },
  {
    name: "too old without a nonce",
    asked: sent(proof({ iat: NOON / 1_000 - 61 })),
    want: { kind: "stale", why: "nonce absent" },
  },
  { name: "a proof for a token that is bound to nothing", asked: sent(proof()), token: unbound, want: undefined },
  {
    name: "a signature that is not meant for us",
    asked: { headers: { "signature-input": 'a=("@method");tag="b"', signature: "a=:AA==:" } },
    token: ABSENT,
    want: undefined,
  },
  {
    name: "a signature that signs nothing",
    asked: { headers: { "signature-input": 'a=("@method");tag="sallyport"', signature: "a=:AA==:" } },
    token: ABSENT,
    want: { kind: "failed", why: "not_covered", forged: false },
  },
];
for (const { name, asked, token = bound, policy = POLICY, want } of cases) {
  t.test(`${name} is seen as such`, async (t) => {
    const found = readProof(read(asked), token, policy, createProofs());
    if (want === undefined) t.equal(found, undefined);
    else t.match(found, want as object);
  });
}

t.test("the certificate's key signs what the client helper makes of the challenge", async (t) => {
  const proofs = createProofs();
  const caller = new Caller({ key: createPrivateKey(web.keyPem), tokenType: "Bearer", now: () => NOON });
  const exchange = caller.begin({
    method: "GET",
    url: new URL("https://orders.example:8443/a?b=c"),
    headers: new Map(),
    body: async () => new Uint8Array(),
  });
  await exchange.first();
  const asked = proofs.signatureChallenge([]);
  const answer = await exchange.answer((name) => asked[name]);
  const found = readProof(read({ headers: { ...answer } }), ABSENT, POLICY, proofs);
  t.match(found, { kind: "valid", method: "http_signature", nonce: "fresh", nonceIssuedAt: NOON });
  t.match(readProof(read({ headers: { ...answer } }), ABSENT, POLICY, proofs), { kind: "failed", why: "replayed" });
  t.match(readProof(read({ headers: { ...answer }, path: "/other" }), ABSENT, POLICY, proofs), {
    kind: "failed",
    why: "signature",
    forged: true,
  });
});

t.test("a certificate whose key is no point of its curve has no key to sign with, and harms nobody", async (t) => {
  const headers = { "signature-input": 'a=("@method");tag="sallyport"', signature: "a=:AA==:" };
  for (const curve of ["1.2.840.10045.3.1.7", "1.3.132.0.1"]) {
    const algorithm = sequence(objectIdentifier("1.2.840.10045.2.1"), objectIdentifier(curve));
    const certificate = pemOf(certificateOf({ key: sequence(algorithm, element(0x03, hex("00 00"))) }));
    const asked = read({ headers, certificate });
    t.equal(asked.certificate?.key, undefined);
    t.match(readProof(asked, ABSENT, POLICY, createProofs()), { kind: "failed" });
  }
});
