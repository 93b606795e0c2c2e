/** Signed bundles as the rest of the program sees them: whose signatures count, and what was accepted. */

/** A public Ed25519 key whose signature counts. */
export interface TrustedKey {
  /** RFC 7638 thumbprint, base64url. */
  readonly kid: string;
  /** The public key (RFC 8037 `x`), base64url. */
  readonly x: string;
  /** Whose it is, for people; empty when nobody said. */
  readonly owner: string;
}

/** Whose signatures count, and how many different ones are needed; each version names the next. */
export interface TrustRoot {
  readonly version: number;
  readonly threshold: number;
  readonly keys: readonly TrustedKey[];
  /** Revisions begin anew under it; left out where they go on. */
  readonly restartsRevisions?: true;
}

/** What is known of one bundle that was verified. */
export interface BundleFacts {
  readonly name: string;
  /** Higher than that of every earlier bundle of the name; 1..2^53-1. */
  readonly revision: number;
  /** SHA-256 of the signed manifest, hex: names the content. */
  readonly digest: string;
  readonly issuedAtMs: number;
  readonly expiresAtMs: number;
}

/** What a verifier remembers: the root that it has come to, and the last bundle that it put in force. */
export interface Trust {
  readonly root: TrustRoot;
  /** `undefined` before the first bundle. */
  readonly accepted: BundleFacts | undefined;
  /** Digest of the key file that this began with, hex; left out until a state file was written of it. */
  readonly anchor?: string;
}

/** How the policy in force stands to what should be in force; shown in readiness, metrics and verdicts. */
export type PolicyFreshness =
  /** Confirmed by its source lately, or of a source that needs no confirming. */
  | "fresh"
  /** The source has not answered, or has offered only what was refused, for longer than it may. */
  | "stale"
  /** The bundle's own time is over. */
  | "expired";
