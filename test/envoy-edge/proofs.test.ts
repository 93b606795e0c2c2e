import { createPublicKey, randomBytes } from "node:crypto";
import t from "tap";
import { createPki } from "../../scripts/pki.ts";
import { parseAcceptSignature } from "../../src/challenge/accept-signature.ts";
import type { DpopRequest } from "../../src/challenge/dpop.ts";
import { NONCE_CHARS, Nonces } from "../../src/challenge/nonce.ts";
import { parseKeyObject } from "../../src/challenge/proof-key.ts";
import { Proofs, registeredKeys } from "../../src/envoy/proofs.ts";
import { proofOf, testKey } from "../support/proofs.ts";

const START = Date.parse("2026-03-02T12:00:00Z");
const key = testKey();

function create(options: { readonly proofsMax?: number } = {}) {
  const clock = { nowMs: START - 10_000 };
  const secret = new Uint8Array(32).fill(5);
  const now = (): number => clock.nowMs;
  const proofs = new Proofs({ nonces: new Nonces(secret), now, randomBytes, key: new Uint8Array(32), ...options });
  clock.nowMs = START;
  return { proofs, clock };
}

const bound = [{ by: "token_key", thumbprint: key.jkt, key: undefined }] as const;
const asked = (proof: string): DpopRequest => ({
  proofs: [proof],
  method: "GET",
  origins: ["https://orders.example"],
  path: "/a",
  accessToken: undefined,
});
const made = (claims: Record<string, unknown> = {}) =>
  proofOf(key, {
    jti: randomBytes(8).toString("hex"),
    htm: "GET",
    htu: "https://orders.example/a",
    iat: START / 1_000,
    ...claims,
  });

t.test("a challenge's nonce is answered, and the answer passes once", async (t) => {
  const { proofs } = create();
  const headers = proofs.dpopChallenge();
  t.match(headers["www-authenticate"], /^DPoP error="use_dpop_nonce", .*algs="ES256 /);
  const nonce = headers["dpop-nonce"] as string;
  t.equal(nonce.length, NONCE_CHARS);
  const answer = made({ nonce });
  t.match(proofs.dpop(asked(answer), bound, true), { kind: "valid", jkt: key.jkt, nonceIssuedAt: START });
  t.same(proofs.dpop(asked(answer), bound, true), { kind: "invalid", why: "replayed" });
});

t.test("where no challenge was put, a proof without a nonce passes, once as well", async (t) => {
  const { proofs } = create();
  const proof = made();
  t.match(proofs.dpop(asked(proof), bound, false), { kind: "valid" });
  t.same(proofs.dpop(asked(proof), bound, false), { kind: "invalid", why: "replayed" });
});

t.test("a proof that is wrong for one request is not held against another", async (t) => {
  const { proofs } = create();
  const proof = made();
  t.same(proofs.dpop({ ...asked(proof), method: "PUT" }, bound, false), { kind: "invalid", why: "method" });
  t.same(proofs.dpop(asked(proof), [], false), { kind: "invalid", why: "key_not_bound" });
  t.match(proofs.dpop(asked(proof), bound, false), { kind: "valid" });
});

t.test("a proof whose signature is false stays refused, and takes no place among the spent ones", async (t) => {
  const { proofs } = create({ proofsMax: 1 });
  const good = made();
  const [header, claims] = good.split(".");
  const forged = `${header}.${claims}.${"A".repeat(86)}`;
  for (let times = 0; times < 3; times++) {
    t.same(proofs.dpop(asked(forged), bound, false), { kind: "invalid", why: "signature" });
  }
  t.match(proofs.dpop(asked(good), bound, false), { kind: "valid" });
});

t.test("proofs from before the start are asked for anew", async (t) => {
  const { proofs } = create();
  t.same(proofs.dpop(asked(made({ iat: START / 1_000 - 11 })), bound, false), {
    kind: "wants_nonce",
    why: "forgotten",
  });
});

t.test("a signature challenge carries our nonce, and names a key where only one may answer", async (t) => {
  const { proofs } = create();
  const [request] = parseAcceptSignature(
    proofs.signatureChallenge(["content-digest"], "k1")["accept-signature"] as string,
  );
  t.match(request, { tag: "sallyport", keyId: "k1" });
  t.equal(request?.nonce?.length, NONCE_CHARS);
});

t.test("a JWKS gives the keys that can make proofs, and leaves out the others", async (t) => {
  const keys = registeredKeys({
    keys: [{ ...key.jwk, kid: "one" }, { kty: "oct", k: "AAAA" }, { kty: "EC" }, null, testKey("EdDSA").jwk],
  });
  t.same(
    keys.map(({ kid, type }) => [kid, type]),
    [
      ["one", "P-256"],
      [undefined, "Ed25519"],
    ],
  );
  t.same(registeredKeys({}), []);
});

t.test("the peer certificate's key is read from what Envoy sends", async (t) => {
  const { proofs } = create();
  const { certPem } = await (await createPki()).issue({ spiffeId: "spiffe://shop.example/billing" });
  const want = parseKeyObject(createPublicKey(certPem));
  const read = proofs.certificateKey(encodeURIComponent(certPem));
  t.equal(read?.thumbprint, want.ok ? want.key.thumbprint : "");
  t.equal(proofs.certificateKey(encodeURIComponent(certPem)), read, "and kept");
  t.equal(proofs.certificateKey("nonsense"), undefined);
  t.equal(proofs.certificateKey("%"), undefined);
  t.equal(proofs.certificateKey("x".repeat(70_000)), undefined);
});
