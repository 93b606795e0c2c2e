/** A policy as the line reads it: parsed, checked, and compiled into look-ups. Replaced whole, never edited. */

import type { DecisionKind, Mode } from "./verdict.ts";

export interface Thresholds {
  /** Scores at or above are challenged; 0..100. */
  readonly challenge: number;
  /** At or above: denied. Not below `challenge`. */
  readonly deny: number;
  /** At or above: terminated. Not below `deny`. */
  readonly terminate: number;
}

/** Matches a request; every present part must match. Texts are globs: `*` within a segment, `**` across. */
export interface RuleMatch {
  readonly destinations: readonly RegExp[];
  readonly routes: readonly RegExp[];
  readonly methods: readonly string[];
  readonly principals: readonly RegExp[];
}

export interface Rule {
  readonly name: string;
  readonly match: RuleMatch;
  readonly mode: Mode | undefined;
  readonly thresholds: Partial<Thresholds> | undefined;
  /** A fixed decision, whatever the score; locks, blocklists and other certain facts still win over `allow`. */
  readonly decision: Exclude<DecisionKind, "terminate"> | undefined;
  /** Whether long-lived streams are held so that they can be ended. */
  readonly watch: boolean | undefined;
}

export interface SignalPolicy {
  readonly mode: "enforce" | "observe" | "off";
  /** Most bits that this signal can add. */
  readonly capBits: number;
}

/** How an address stands on one list. */
export interface ListHit {
  readonly list: string;
  /** `block` denies outright; `score` adds `bits`. */
  readonly action: "block" | "score";
  readonly bits: number;
  readonly reason: string;
}

/** Look-up over many ranges; constant time. */
export interface AddressLists {
  readonly size: number;
  /** @param address canonical text of an IPv4 or IPv6 address */
  lookup(address: string): ListHit | undefined;
}

export interface AddressPlace {
  readonly asn: number | undefined;
  readonly country: string | undefined;
}

/** Where an address is, by MMDB files or tables; absent parts mean that the data does not tell. */
export interface GeoLookup {
  place(address: string): AddressPlace;
}

export interface LockScope {
  readonly principal?: string | undefined;
  readonly credential?: string | undefined;
  /** SHA-256 or serial of a certificate, lower-case hex. */
  readonly certificate?: string | undefined;
  /** JA4 or JA3. */
  readonly fingerprint?: string | undefined;
  /** An address or a CIDR range. */
  readonly address?: string | undefined;
  readonly destination?: string | undefined;
}

/** An order to refuse and terminate all that matches every part of `scope`. */
export interface Lock {
  readonly id: string;
  readonly scope: LockScope;
  readonly reason: string;
  /** `operator:NAME`, `policy`, or `auto`. */
  readonly setBy: string;
  readonly setAtMs: number;
  /** `undefined`: until unlocked. */
  readonly expiresAtMs: number | undefined;
}

export interface PosturePolicy {
  /** Posture facts older than this are stale. */
  readonly maxAgeMs: number;
  /** What missing or stale facts mean, in bits. */
  readonly missingBits: number;
  readonly staleBits: number;
  /** Any of these forbids: the score becomes 100. */
  readonly forbid: readonly PostureRequirement[];
  /** Principals that must have posture facts; without any, missing facts say nothing. */
  readonly required: readonly RegExp[];
}

/** One forbidden condition: `fact` has one of `values`, or (with `unless`) has none of them. */
export interface PostureRequirement {
  readonly name: string;
  readonly fact: string;
  readonly operator: "in" | "not_in";
  readonly values: readonly string[];
}

/** Stated facts on one workload's condition. */
export interface PostureFacts {
  /** For example `image_digest`, `node`, `attested`, `compliant`, `vulnerabilities_critical`. */
  readonly facts: Readonly<Record<string, string>>;
  readonly source: string;
  readonly reportedAtMs: number;
}

export interface ChallengePolicy {
  /** Challenges put to one credential before the next is a denial. */
  readonly triesMax: number;
  /** How long a challenge stays open, in milliseconds. */
  readonly ttlMs: number;
  /** How long an answer discharges evidence of origin. */
  readonly dischargeMs: number;
  readonly acrValues: readonly string[];
  readonly maxAgeSeconds: number | undefined;
}

/** An issuer whose tokens are verified here, when Envoy's jwt_authn has not done it already. */
export interface IssuerPolicy {
  readonly issuer: string;
  /** Empty: any audience. */
  readonly audiences: readonly string[];
  readonly jwks: { readonly kind: "inline"; readonly keys: string } | { readonly kind: "url"; readonly url: string };
  /** JWS algorithms accepted; asymmetric ones only. */
  readonly algorithms: readonly string[];
  readonly clockToleranceMs: number;
}

export interface IdentityPolicy {
  readonly issuers: readonly IssuerPolicy[];
  /** Direct peers (SPIFFE IDs) whose `x-forwarded-client-cert` is believed; empty: nobody's. */
  readonly xfccHops: readonly RegExp[];
  /** Lower-case name of the header that carries API keys. */
  readonly apiKeyHeader: string | undefined;
  /** Known API keys: lower-case hex SHA-256 of the key to the key's id. */
  readonly apiKeys: ReadonlyMap<string, string>;
  /** SPIFFE IDs that may call at all; empty: any in a verified certificate. */
  readonly trustedSpiffe: readonly RegExp[];
  /** Declared delegation: a certificate `caller` may carry tokens of `subject`. */
  readonly delegations: readonly { readonly caller: RegExp; readonly subject: RegExp }[];
  /** Token issuers whose `jti` may be used once only. */
  readonly singleUseIssuers: readonly string[];
}

/** What becomes of streams that are held. */
export interface StreamPolicy {
  /** Which requests are held where no rule says: those that are known to last, or none. */
  readonly hold: "long" | "none";
  /** Whether a stream ends when the credential that opened it does. */
  readonly endWithCredential: boolean;
  /** Whether a stream ends when its caller would be challenged now. */
  readonly endOnChallenge: boolean;
}

export interface ResponsePolicy {
  /** Whether deny bodies name the reasons. Default false. */
  readonly revealReasons: boolean;
  /** Whether allowed requests carry `x-sallyport-*` headers upstream. */
  readonly upstreamHeaders: boolean;
}

/** Everything that a policy decides about one signal catalogue, destination and caller. */
export interface Policy {
  readonly revision: string;
  readonly name: string;
  readonly mode: Mode;
  readonly thresholds: Thresholds;
  /** First match wins. */
  readonly rules: readonly Rule[];
  /** By signal name, then by family (the part before the dot); `undefined` means the catalogue's default. */
  signal(name: string): SignalPolicy | undefined;
  readonly identity: IdentityPolicy;
  readonly challenge: ChallengePolicy;
  readonly posture: PosturePolicy;
  readonly response: ResponsePolicy;
  readonly addresses: AddressLists;
  /** TLS fingerprints by exact text: JA4, JA3, or a JA4 cipher part. */
  readonly fingerprints: ReadonlyMap<string, ListHit>;
  readonly geo: GeoLookup;
  readonly locks: readonly Lock[];
  /** Posture facts by principal name, SPIFFE ID or address. */
  readonly postureFacts: ReadonlyMap<string, PostureFacts>;
  readonly streams: StreamPolicy;
  /** How long an automatic lock lasts. */
  readonly autoLockMs: number;
}
