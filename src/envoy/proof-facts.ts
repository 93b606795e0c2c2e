/** Reads a request's proof of possession, where anything turns on it, and verifies it by the keys bound to its caller. */

import { boundKeys } from "../challenge/bound.ts";
import { registeredFor } from "../challenge/choose.ts";
import { SIGNATURE_TAG, type SignatureOutcome } from "../challenge/http-signature.ts";
import type { ProofKey } from "../challenge/proof-key.ts";
import { identify } from "../identity/identify.ts";
import type { RequestFacts } from "../model/facts.ts";
import type { ProofFacts, TokenFacts } from "../model/identity.ts";
import type { Policy, RegisteredKeys } from "../model/policy.ts";
import { MINUTE_MS } from "../model/units.ts";
import { type Proofs, registeredKeys } from "./proofs.ts";
import type { ReadRequest, RequestTarget } from "./request.ts";
import type { Proving } from "./response.ts";

/** A nonce of this age is replaced by the next response, well before it stops counting. */
const NONCE_AGING_MS = 2 * MINUTE_MS;

/** Faults that only somebody without the key makes; others happen to careless clients and wrong clocks. */
const FORGED = ["key_not_bound", "key_unknown", "signature"];

/**
 * The request's proof. `undefined` where nothing turns on one: the token is not bound to a key, and no signature is meant
 * for us. A token that is bound to a key is proved by DPoP alone.
 */
export function readProof(
  read: ReadRequest,
  token: TokenFacts,
  policy: Policy,
  proofs: Proofs,
): ProofFacts | undefined {
  const { target } = read;
  if (target === undefined) return undefined;
  if (token.kind === "verified" && token.boundKey !== undefined) {
    return dpopProof(read, target, token.boundKey, policy, proofs);
  }
  const isSigned = read.headers.all("signature-input").some((value) => value.includes(`"${SIGNATURE_TAG}"`));
  return isSigned ? signatureProof(read, target, token, policy, proofs) : undefined;
}

/** What the response should know of how the caller proves itself. */
export function provingOf(read: ReadRequest, facts: RequestFacts, proof: ProofFacts | undefined): Proving {
  const { token } = facts.presented;
  const isBound = token.kind === "verified" && token.boundKey !== undefined;
  return {
    scheme: isBound ? "DPoP" : "Bearer",
    nonceDue: isBound && proof !== undefined && proof.kind !== "none" && isNonceDue(facts, proof),
    fields: signedFields(read),
  };
}

function isNonceDue({ time }: RequestFacts, proof: ProofFacts): boolean {
  if (proof.kind !== "valid" || proof.nonceIssuedAt === undefined) return true;
  return time - proof.nonceIssuedAt > NONCE_AGING_MS;
}

function dpopProof(
  read: ReadRequest,
  target: RequestTarget,
  boundKey: string,
  policy: Policy,
  proofs: Proofs,
): ProofFacts {
  const sent = read.headers.all("dpop");
  if (sent.length === 0) return { kind: "none" };
  const outcome = proofs.dpop(
    {
      proofs: sent,
      method: target.method,
      origins: originsOf(target, policy),
      path: target.path,
      accessToken: read.bearer,
    },
    [{ by: "token_key", thumbprint: boundKey, key: undefined }],
    "optional",
  );
  const method = "dpop";
  switch (outcome.kind) {
    case "missing":
      return { kind: "none" };
    case "wants_nonce":
      return { kind: "stale", method, why: `nonce ${outcome.why}` };
    case "invalid":
      return { kind: "failed", method, why: outcome.why, forged: FORGED.includes(outcome.why) };
    case "valid": {
      const nonce = outcome.nonceLacks ?? "fresh";
      return { kind: "valid", method, key: outcome.jkt, nonce, nonceIssuedAt: outcome.nonceIssuedAt };
    }
  }
}

function signatureProof(
  read: ReadRequest,
  target: RequestTarget,
  token: TokenFacts,
  policy: Policy,
  proofs: Proofs,
): ProofFacts {
  const { certificate, peerSpiffeId, peerNameInvalid, peerCertificate } = read;
  const presented = {
    certificate,
    peerSpiffeId,
    peerNameInvalid,
    token,
    apiKey: { kind: "absent" } as const,
    faults: [],
  };
  const identity = identify(presented, policy.identity);
  // A key that is none (an elliptic curve's point at infinity) would have OpenSSL's binding end the process.
  const hasKey = certificate?.key !== undefined && peerCertificate !== undefined;
  const certificateKey = hasKey ? proofs.certificateKey(peerCertificate()) : undefined;
  const registered = registeredFor(policy.identity, identity.principal.name).flatMap(keysOf);
  const keys = boundKeys({ identity, token, certificate, certificateKey }, registered);
  let outcome: SignatureOutcome = { kind: "missing" };
  for (const origin of originsOf(target, policy)) {
    const { protocol, host } = new URL(origin);
    const authority = origin === ownOrigin(target) ? target.authority : host;
    const request = {
      method: target.method,
      scheme: protocol.slice(0, -1),
      authority,
      target: target.path,
      values: (name: string) => read.headers.all(name),
    };
    outcome = proofs.signature(request, keys, signedFields(read));
    // Another authority would be another text to sign.
    if (outcome.kind !== "invalid" || outcome.why !== "signature") break;
  }
  const method = "http_signature";
  switch (outcome.kind) {
    case "missing":
      return { kind: "none" };
    case "wants_nonce":
      return { kind: "stale", method, why: `nonce ${outcome.why}` };
    case "invalid":
      return { kind: "failed", method, why: outcome.why, forged: FORGED.includes(outcome.why) };
    case "valid":
      return {
        kind: "valid",
        method,
        key: outcome.thumbprint,
        nonce: "fresh",
        nonceIssuedAt: outcome.nonceIssuedAt,
      };
  }
}

/** A token goes with its signature: a signed request must not lend itself to another's token. */
function signedFields(read: ReadRequest): readonly string[] {
  return read.bearer === undefined ? [] : ["authorization"];
}

function ownOrigin({ scheme, authority }: RequestTarget): string {
  return `${scheme}://${authority}`;
}

function originsOf(target: RequestTarget, { challenge }: Policy): readonly string[] {
  const own = ownOrigin(target);
  return URL.canParse(own) ? [own, ...challenge.publicOrigins] : challenge.publicOrigins;
}

/** Read once for each policy in force, whose entries these are. */
const readKeySets = new WeakMap<RegisteredKeys, readonly ProofKey[]>();

function keysOf(registered: RegisteredKeys): readonly ProofKey[] {
  let keys = readKeySets.get(registered);
  if (keys === undefined) {
    // Checked to be a key set when the policy was loaded.
    keys = registeredKeys(JSON.parse(registered.jwks) as { readonly keys?: readonly unknown[] });
    readKeySets.set(registered, keys);
  }
  return keys;
}
