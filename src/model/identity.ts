/** Who calls and what they presented, after verification and before any judgement. */

import type { EpochMs } from "./units.ts";

/** How a principal's name was established, strongest first. */
export type PrincipalKind = "spiffe" | "jwt" | "api_key" | "anonymous";

/**
 * The verified identity of a workload. `name` is the key of all memory kept of it: the SPIFFE ID; `issuer|subject` of a
 * verified token; the id of a known API key; or the literal `anonymous`.
 */
export interface Principal {
  readonly kind: PrincipalKind;
  readonly name: string;
}

/** Everybody who proved nothing shares this one principal, and no memory is kept of it. */
export const ANONYMOUS: Principal = { kind: "anonymous", name: "anonymous" };

/** A peer certificate as Envoy verified it (`source.certificate`), or as a listed hop reported it (XFCC). */
export interface CertificateFacts {
  readonly via: "peer" | "xfcc";
  /** SHA-256 of the DER, lower-case hex. */
  readonly sha256: string;
  /** The one valid SPIFFE ID among the URI SANs. */
  readonly spiffeId: string | undefined;
  readonly subject: string | undefined;
  readonly issuer: string | undefined;
  /** Serial number, lower-case hex without separators. */
  readonly serial: string | undefined;
  readonly notBefore: EpochMs | undefined;
  readonly notAfter: EpochMs | undefined;
  /** For example `EC P-256`, `RSA 2048`, `Ed25519`. */
  readonly key: string | undefined;
  /** RFC 8705 thumbprint: base64url of the SHA-256 without padding. */
  readonly x5tS256: string;
  /** SHA-256 of the public key (SPKI, DER), lower-case hex; absent where only the certificate's hash is known. */
  readonly keySha256?: string | undefined;
}

/** A bearer token. Only a verified one names anybody. */
export type TokenFacts =
  | { readonly kind: "absent" }
  /** `forged` means that a signature or an issuer's statement was found false, not merely that none could be checked. */
  | { readonly kind: "unverified"; readonly why: string; readonly forged: boolean; readonly id: string }
  | VerifiedToken;

/** A token whose signature, issuer, audience and times were checked, here or by Envoy's jwt_authn. */
export interface VerifiedToken {
  readonly kind: "verified";
  /** Keyed hash that stands for the token: of issuer and `jti` where it has one, else of the whole token. */
  readonly id: string;
  readonly issuer: string;
  readonly subject: string;
  readonly issuedAt: EpochMs | undefined;
  readonly expiresAt: EpochMs | undefined;
  /** `auth_time` (OpenID Connect Core, section 2). */
  readonly authenticatedAt: EpochMs | undefined;
  readonly acr: string | undefined;
  /** `cnf.x5t#S256` (RFC 8705, section 3.1). */
  readonly boundCertificate: string | undefined;
  /** `cnf.jkt` (RFC 9449, section 6.1). */
  readonly boundKey: string | undefined;
  /** Subjects of the `act` chain, outermost first (RFC 8693, section 4.1): who acts for the subject. */
  readonly actors: readonly string[];
  /** True when the token carries a `jti`. */
  readonly hasJti: boolean;
}

/** An API key found in the configured header. */
export type ApiKeyFacts =
  | { readonly kind: "absent" }
  /** A key that the policy does not list; `id` is its keyed hash. It names nobody. */
  | { readonly kind: "unknown"; readonly id: string }
  /** `name` is the id that the policy gives the key. */
  | { readonly kind: "known"; readonly id: string; readonly name: string };

export type ProofMethod = "dpop" | "http_signature";

/** A proof of possession that came with the request, verified against the keys that were bound to the caller before. */
export type ProofFacts =
  /** None came, although one could have. */
  | { readonly kind: "none" }
  | {
      readonly kind: "valid";
      readonly method: ProofMethod;
      /** Thumbprint (RFC 7638) of the key. */
      readonly key: string;
      /** Whether it was made with a nonce of ours that still counts. */
      readonly nonce: "fresh" | "absent" | "stale" | "unknown";
      /** Set when the nonce is fresh. */
      readonly nonceIssuedAt: EpochMs | undefined;
    }
  /** By a key that counts, but not known to be made just now: too old without a fresh nonce, or perhaps used before. */
  | { readonly kind: "stale"; readonly method: ProofMethod; readonly why: string }
  /** `forged`: by a key that is not the caller's, or with a signature that does not verify. */
  | { readonly kind: "failed"; readonly method: ProofMethod; readonly why: string; readonly forged: boolean };

/** All that a caller proved about itself. */
export interface PresentedFacts {
  readonly certificate: CertificateFacts | undefined;
  /** SPIFFE ID that Envoy read from the verified peer certificate (`source.principal`). */
  readonly peerSpiffeId: string | undefined;
  /** Text of `source.principal` when it is not a valid SPIFFE ID; names nobody. */
  readonly peerNameInvalid: string | undefined;
  /**
   * A SPIFFE ID that is not believed: its trust domain's authorities are known, and none of them issued the certificate.
   * It names nobody, and stands nowhere else.
   */
  readonly unanchored?: string | undefined;
  readonly token: TokenFacts;
  /** `undefined`: nobody looked, since nothing turns on it. */
  readonly proof?: ProofFacts | undefined;
  readonly apiKey: ApiKeyFacts;
  /** Set when a header or certificate was present but could not be read; for reasons and logs. */
  readonly faults: readonly string[];
}

/** The credential a session is kept for: `kind:keyed-hash`, or `certificate:sha256`. Never the secret itself. */
export type CredentialId = string;

/** The outcome of identification: whose habits judge the request, and which credential carries its session. */
export interface Identity {
  readonly principal: Principal;
  /** The token's subject, when a verified token names somebody other than `principal`. */
  readonly second: Principal | undefined;
  /** Whether `second` is covered by a declared delegation. Meaningless without `second`. */
  readonly delegated: boolean;
  readonly credential: CredentialId;
  /** Whether anything was proved: memory is only ever kept of proven callers. */
  readonly proven: boolean;
}
