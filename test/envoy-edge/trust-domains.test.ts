/** Tests what trust domains make of certificates and JWT-SVIDs. */

import { create, toBinary } from "@bufbuild/protobuf";
import { exportJWK, generateKeyPair, SignJWT } from "jose";
import t from "tap";
import { createPki } from "../../scripts/pki.ts";
import { readAnchors } from "../../src/bundle/anchors.ts";
import { Anchoring } from "../../src/envoy/anchoring.ts";
import { KeySets } from "../../src/envoy/key-sets.ts";
import { RequestMemory, readRequest } from "../../src/envoy/request.ts";
import { Tokens } from "../../src/envoy/tokens.ts";
import { CheckRequestSchema } from "../../src/gen/envoy/service/auth/v3/external_auth_pb.ts";
import type { IdentityPolicy, TrustDomainPolicy } from "../../src/model/policy.ts";

const [a, b, impostor] = [await createPki("A"), await createPki("B"), await createPki("A")];
const DAY_MS = 86_400_000;
const signer = await generateKeyPair("ES256", { extractable: true });
const stranger = await generateKeyPair("ES256", { extractable: true });
const bundle = JSON.stringify({
  keys: [{ ...(await exportJWK(signer.publicKey)), kid: "k1", use: "jwt-svid" }],
});

function domain(name: string, pem: string, more: Partial<TrustDomainPolicy> = {}): [string, TrustDomainPolicy] {
  const read = readAnchors(pem);
  if (!read.ok) throw new Error(read.got);
  const { certificates, jwtKeys } = read.authorities;
  return [name, { name, authorities: certificates, jwtKeys, audiences: [], ...more }];
}

type Domains = IdentityPolicy["trustDomains"];
const DOMAINS: Domains = new Map([domain("a.example", a.caPem)]);

function read(domains: Domains, certificate: string | undefined, xfcc?: string, now = Date.now()) {
  const anchoring = new Anchoring(() => now);
  const request = create(CheckRequestSchema, {
    attributes: {
      source: { principal: "spiffe://a.example/w", certificate: encodeURIComponent(certificate ?? "") },
      request: { http: { headers: xfcc === undefined ? {} : { "x-forwarded-client-cert": xfcc } } },
    },
  });
  return readRequest(
    toBinary(CheckRequestSchema, request),
    new RequestMemory(10),
    [/^spiffe:\/\/a\.example\/w$/],
    (shown) => anchoring.isAnchored(shown, domains),
  );
}

const mine = (await a.issue({ spiffeId: "spiffe://a.example/w" })).certPem;
const theirs = (await b.issue({ spiffeId: "spiffe://a.example/w" })).certPem;
const alike = (await impostor.issue({ spiffeId: "spiffe://a.example/w" })).certPem;

t.test("a certificate of its own domain's authority names its caller", async (t) => {
  t.match(read(DOMAINS, mine), { peerSpiffeId: "spiffe://a.example/w", unanchored: undefined });
});

const UNBELIEVED = [
  { name: "another authority's", certificate: theirs },
  { name: "one of an authority of the same name", certificate: alike },
  { name: "none that was shown", certificate: undefined },
  { name: "one whose authority's time is over", certificate: mine, now: Date.now() + 60 * DAY_MS },
];
for (const { name, certificate, now } of UNBELIEVED) {
  t.test(`a certificate names nobody: ${name}`, async (t) => {
    const found = read(DOMAINS, certificate, undefined, now);
    t.equal(found.peerSpiffeId, undefined);
    t.equal(found.certificate?.spiffeId, undefined);
    t.equal(found.unanchored, "spiffe://a.example/w");
  });
}

t.test("without trust domains nothing is asked", async (t) => {
  t.match(read(new Map(), theirs), { peerSpiffeId: "spiffe://a.example/w", unanchored: undefined });
});

t.test("a hop whose certificate proves nothing is no hop", async (t) => {
  const forwarded = await a.issue({ spiffeId: "spiffe://a.example/behind" });
  const xfcc = `Hash=${forwarded.sha256};Cert="${encodeURIComponent(forwarded.certPem)}";URI=spiffe://a.example/behind`;
  t.equal(read(DOMAINS, mine, xfcc).certificate?.spiffeId, "spiffe://a.example/behind");
  t.equal(read(DOMAINS, theirs, xfcc).certificate?.spiffeId, undefined);
});

t.test("a forwarded certificate must be of its domain's authority, too", async (t) => {
  const forwarded = await b.issue({ spiffeId: "spiffe://a.example/behind" });
  const shown = `Hash=${forwarded.sha256};Cert="${encodeURIComponent(forwarded.certPem)}";URI=spiffe://a.example/behind`;
  for (const xfcc of [shown, `Hash=${forwarded.sha256};URI=spiffe://a.example/behind`]) {
    const found = read(DOMAINS, mine, xfcc);
    t.equal(found.certificate?.spiffeId, undefined);
    t.equal(found.unanchored, "spiffe://a.example/behind");
  }
});

interface Svid {
  readonly claims?: Record<string, unknown>;
  readonly header?: Record<string, unknown>;
  readonly key?: CryptoKey;
}

async function token({ claims = {}, header = {}, key = signer.privateKey as CryptoKey }: Svid, audiences = ["orders"]) {
  const now = Math.floor(Date.now() / 1_000);
  const all = { sub: "spiffe://a.example/w", aud: ["orders"], exp: now + 60, ...claims };
  const text = await new SignJWT(all).setProtectedHeader({ alg: "ES256", kid: "k1", ...header }).sign(key);
  const keySets = new KeySets({ now: Date.now, onError: () => undefined });
  const tokens = new Tokens({ key: new Uint8Array(32), keySets, now: Date.now });
  return tokens.read(text, [], new Map([domain("a.example", bundle, { audiences })]));
}

t.test("a JWT-SVID is verified with its domain's keys, and known by its domain whatever its issuer says", async (t) => {
  for (const claims of [{}, { iss: "https://elsewhere.example" }]) {
    t.match(await token({ claims }), {
      kind: "verified",
      issuer: "spiffe://a.example",
      subject: "spiffe://a.example/w",
    });
  }
});

const REFUSED = [
  { name: "for another audience", svid: { claims: { aud: ["stock"] } }, why: /aud/ },
  { name: "without an audience", svid: { claims: { aud: undefined } }, why: /aud/ },
  { name: "without an end", svid: { claims: { exp: undefined } }, why: /exp/ },
  { name: "past its end", svid: { claims: { exp: 1_000 } }, why: /past its end/ },
  { name: "of a domain that is not listed", svid: { claims: { sub: "spiffe://b.example/w" } }, why: /issuer/ },
  { name: "of a type of its own", svid: { header: { typ: "at+jwt" } }, why: /type/ },
  { name: "by a stranger's key", svid: { key: stranger.privateKey as CryptoKey }, why: /signature/ },
];
for (const { name, svid, why } of REFUSED) {
  t.test(`a JWT-SVID names nobody: ${name}`, async (t) => {
    t.match(await token(svid), { kind: "unverified", why });
  });
}

t.test("JWT-SVIDs of a domain without audiences are not verified", async (t) => {
  t.match(await token({}, []), { kind: "unverified", forged: false, why: /no audiences/ });
});
