/**
 * Verifies proofs of possession before the line sees them: keeps imported keys, refused proofs and spent ones, in bounds.
 *
 * Verification is synchronous `node:crypto`: with the key at hand an ES256 proof takes about 0.1 ms, less than half of what
 * it takes by way of WebCrypto, and the order of checks and uses stays that of arrival. What bounds the time is what is
 * verified: one proof or two signatures of bounded length, by keys of bounded size, and a refused text only once.
 */

import { X509Certificate } from "node:crypto";
import { acceptSignature, demandedComponents } from "../challenge/accept-signature.ts";
import type { BoundKey } from "../challenge/bound.ts";
import { type DpopOutcome, type DpopRequest, verifyDpop } from "../challenge/dpop.ts";
import {
  SIGNATURE_TAG,
  type SignatureDemand,
  type SignatureOutcome,
  verifyHttpSignature,
} from "../challenge/http-signature.ts";
import { NONCE_RANDOM_BYTES, type Nonces } from "../challenge/nonce.ts";
import {
  importKey,
  JWS_ALGORITHMS,
  type ParsedKey,
  type ProofKey,
  parseJwk,
  parseKeyObject,
  type ReadKey,
} from "../challenge/proof-key.ts";
import { ReplayMemory } from "../challenge/replay.ts";
import type { SignedRequest } from "../challenge/signature-base.ts";
import { dpopChallenge } from "../challenge/www-authenticate.ts";
import { keyedHash } from "../identity/keyed-hash.ts";
import { SECOND_MS, toEpochMs } from "../model/units.ts";

/** Imported keys kept; the least recently used goes. Importing costs about as much as verifying. */
const KEYS_MAX = 4_096;
const CERTIFICATES_MAX = 2_048;
const REFUSED_MAX = 4_096;
/** A refused proof is not verified again for this long: a flood of one bad proof costs one hash each. */
const REFUSED_MS = 5 * SECOND_MS;
/** Keys of one JWKS that count; further ones are left out. */
const REGISTERED_MAX = 64;
const CERTIFICATE_CHARS_MAX = 64 * 1024;

export interface ProofsOptions {
  readonly nonces: Nonces;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  readonly randomBytes: (bytes: number) => Uint8Array;
  /** Key of the hashes that stand for refused proofs. */
  readonly key: Uint8Array;
  readonly proofsMax?: number;
}

/** A challenge's headers, by lower-case name. */
export type ChallengeHeaders = Readonly<Record<string, string>>;

export class Proofs {
  private readonly keys = new Bounded<string, ParsedKey>(KEYS_MAX);
  private readonly certificates = new Bounded<string, ProofKey | "none">(CERTIFICATES_MAX);
  private readonly refused = new Bounded<string, { readonly outcome: DpopOutcome; readonly untilMs: number }>(
    REFUSED_MAX,
  );
  private readonly replays: ReplayMemory;
  private readonly options: ProofsOptions;

  constructor(options: ProofsOptions) {
    this.options = options;
    this.replays = new ReplayMemory({
      startedAtMs: options.now(),
      ...(options.proofsMax === undefined ? {} : { proofsMax: options.proofsMax }),
    });
  }

  /**
   * @param nonce whether the proof must be fresh by our nonce, as an answer to a challenge must; `"optional"`: it is looked
   *   at, and its outcome told
   */
  dpop(request: DpopRequest, keys: readonly BoundKey[] | "any", nonce: boolean | "optional"): DpopOutcome {
    const now = toEpochMs(this.options.now());
    const hash = request.proofs.length === 1 ? keyedHash(this.options.key, request.proofs[0] as string) : undefined;
    const known = hash === undefined ? undefined : this.refused.get(hash);
    if (known !== undefined && now < known.untilMs) return known.outcome;
    const outcome = verifyDpop(request, {
      now,
      keys,
      nonces: nonce === false ? undefined : this.options.nonces,
      nonceOptional: nonce === "optional",
      replays: this.replays,
      importKey: (read) => this.imported(read),
    });
    // Only what no other request could make right: a proof of another method or URI may belong to another request.
    if (hash !== undefined && outcome.kind === "invalid" && outcome.why === "signature") {
      this.refused.set(hash, { outcome, untilMs: now + REFUSED_MS });
    }
    return outcome;
  }

  /** @param fields what must be covered beyond method, authority and path */
  signature(
    request: SignedRequest,
    keys: readonly BoundKey[],
    fields: readonly string[],
    allowPkcs1 = false,
  ): SignatureOutcome {
    const demand: SignatureDemand = { covered: demandedComponents(fields), tag: SIGNATURE_TAG, allowPkcs1 };
    const now = toEpochMs(this.options.now());
    return verifyHttpSignature(request, { now, keys, nonces: this.options.nonces, replays: this.replays, demand });
  }

  /** Headers of a DPoP challenge (RFC 9449, section 9). The `www-authenticate` value may stand beside others. */
  dpopChallenge(): ChallengeHeaders {
    return { "www-authenticate": dpopChallenge(JWS_ALGORITHMS), "dpop-nonce": this.dpopNonce() };
  }

  /** The next nonce; any response may bring one (RFC 9449, section 8.2). */
  dpopNonce(): string {
    return this.nonce("dpop");
  }

  /** Headers of a signature challenge (RFC 9421, section 5.1). */
  signatureChallenge(fields: readonly string[], keyId?: string): ChallengeHeaders {
    return { "accept-signature": acceptSignature({ nonce: this.nonce("signature"), fields, keyId }) };
  }

  /** The key of the certificate that Envoy verified (URL-encoded PEM), if it is of a kind that makes proofs. */
  certificateKey(encoded: string): ProofKey | undefined {
    if (encoded.length > CERTIFICATE_CHARS_MAX) return undefined;
    let key = this.certificates.get(encoded);
    if (key === undefined) {
      key = readCertificateKey(encoded) ?? "none";
      this.certificates.set(encoded, key);
    }
    return key === "none" ? undefined : key;
  }

  private nonce(purpose: "dpop" | "signature"): string {
    const { nonces, now, randomBytes } = this.options;
    return nonces.issue(purpose, toEpochMs(now()), randomBytes(NONCE_RANDOM_BYTES));
  }

  private imported(read: Extract<ReadKey, { readonly ok: true }>): ParsedKey {
    // `kid` and `alg` are the proof's own words here, and play no part once the algorithm was found to fit.
    const known = this.keys.get(read.thumbprint);
    if (known !== undefined) return known;
    const key = importKey(read);
    this.keys.set(read.thumbprint, key);
    return key;
  }
}

/** Keys of a JWKS (RFC 7517) that can make proofs; others are left out. Read once, when a policy is put in force. */
export function registeredKeys(jwks: { readonly keys?: readonly unknown[] }): readonly ProofKey[] {
  return (jwks.keys ?? []).slice(0, REGISTERED_MAX).flatMap((jwk) => {
    const parsed = parseJwk(jwk);
    return parsed.ok ? [parsed.key] : [];
  });
}

function readCertificateKey(encoded: string): ProofKey | undefined {
  try {
    const parsed = parseKeyObject(new X509Certificate(decodeURIComponent(encoded)).publicKey);
    return parsed.ok ? parsed.key : undefined;
  } catch {
    return undefined; // fails closed: no key that could answer
  }
}

/** A map that forgets the least recently used. */
class Bounded<K, V> {
  private readonly entries = new Map<K, V>();
  private readonly max: number;

  constructor(max: number) {
    this.max = max;
  }

  get(key: K): V | undefined {
    const value = this.entries.get(key);
    if (value === undefined) return undefined;
    this.entries.delete(key);
    this.entries.set(key, value);
    return value;
  }

  set(key: K, value: V): void {
    this.entries.delete(key);
    this.entries.set(key, value);
    if (this.entries.size <= this.max) return;
    const oldest = this.entries.keys().next();
    if (!oldest.done) this.entries.delete(oldest.value);
  }
}
