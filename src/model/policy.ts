/** A policy as the line reads it: parsed, checked, and compiled into look-ups. Replaced whole, never edited. */

import type { RequestFacts } from "./facts.ts";
import type { Identity } from "./identity.ts";
import type { DecisionKind, Mode } from "./verdict.ts";

export interface Thresholds {
  /** Scores at or above are challenged; 0..100. */
  readonly challenge: number;
  /** At or above: denied. Not below `challenge`. */
  readonly deny: number;
  /** At or above: terminated. Not below `deny`. */
  readonly terminate: number;
}

/** A glob: `*` within a segment, `**` across. Compiled when it is first asked. */
export interface Glob {
  readonly text: string;
  test(text: string): boolean;
}

/** Matches a request; every present part must match. */
export interface RuleMatch {
  readonly destinations: readonly Glob[];
  readonly routes: readonly Glob[];
  readonly methods: readonly string[];
  readonly principals: readonly Glob[];
  /** Names of peer groups. */
  readonly peerGroups: readonly string[];
}

/** A named group of principals. */
export interface PeerGroup {
  readonly name: string;
  readonly principals: readonly Glob[];
}

/** What a condition can ask for. */
export interface Asked {
  readonly facts: RequestFacts;
  readonly identity: Identity;
  /** Template of the path, without the method. */
  readonly route: string;
  readonly peerGroup: string | undefined;
  readonly posture: PostureFacts | undefined;
  /** Where the source is; looked up only when asked. */
  readonly place: () => AddressPlace;
  /** `undefined` before the request was scored. */
  readonly scored: { readonly score: number; readonly readings: ReadonlyMap<string, number> } | undefined;
}

/** A rule's condition, checked when it was loaded and planned when it is first asked. */
export interface Condition {
  readonly text: string;
  /** Whether it asks for the score or the readings. */
  readonly needsScore: boolean;
  /** What an evaluation that fails counts as. */
  readonly onError: boolean;
  /** Whether the request fulfils it; `undefined` when that cannot be told. Never throws. */
  evaluate(asked: Asked): boolean | undefined;
  /** Plans it now; otherwise its first evaluation does. */
  prepare(): void;
}

export interface Rule {
  readonly name: string;
  readonly match: RuleMatch;
  readonly when: Condition | undefined;
  readonly mode: Mode | undefined;
  readonly thresholds: Partial<Thresholds> | undefined;
  /** A fixed decision, whatever the score; locks, blocklists and other certain facts still win over `allow`. */
  readonly decision: Exclude<DecisionKind, "terminate"> | undefined;
  /** Whether long-lived streams are held so that they can be ended. */
  readonly watch: boolean | undefined;
  /** Signals as the rule changes them, over the policy's own; `undefined` where the rule changes none. */
  readonly signal: Policy["signal"] | undefined;
  /** Whole, where the rule changes any part of it. */
  readonly challenge: ChallengePolicy | undefined;
  /** Whole, where the rule changes any part of it. */
  readonly response: ResponsePolicy | undefined;
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

/** Values by exact text; a Map is one, a packed table is another. */
export interface Lookup<Value> {
  readonly size: number;
  get(text: string): Value | undefined;
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
  /** SHA-256 of a certificate's public key (SPKI, DER), lower-case hex: renewed certificates of one key have it in common. */
  readonly key?: string | undefined;
  /** JA4 or JA3. */
  readonly fingerprint?: string | undefined;
  /** An address or a CIDR range. */
  readonly address?: string | undefined;
  readonly destination?: string | undefined;
  /** Name of a peer group of the policy. */
  readonly peerGroup?: string | undefined;
}

/** What an automatic lock locks: the credential at this origin alone, wherever it is used, or its whole principal. */
export type AutoLockScope = "origin" | "credential" | "principal";

/** An order to refuse and terminate all that matches every part of `scope`. */
export interface Lock {
  readonly id: string;
  readonly scope: LockScope;
  readonly reason: string;
  /** `operator` or `operator:NAME`, `policy`, `auto`, `fleet:NAME`, or `shared-signals:NAME`. */
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

/** How a challenge is put; `forward` leaves it to the service behind Envoy. */
export type ChallengeKind = "dpop" | "http_signature" | "certificate_bound" | "step_up" | "forward";

export interface ChallengePolicy {
  /** The first that the caller can answer is put; the last where it can answer none. Not empty. */
  readonly kinds: readonly ChallengeKind[];
  /** Origins under which callers know the services here, besides Envoy's own view. */
  readonly publicOrigins: readonly string[];
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
  /** Whether it binds tokens to its clients' certificates (RFC 8705). */
  readonly bindsCertificates?: boolean | undefined;
}

/** Keys that answer for the principals that match any of the globs. */
export interface RegisteredKeys {
  readonly principals: readonly Glob[];
  /** A JSON Web Key Set. */
  readonly jwks: string;
}

/** Somebody who issues certificates of a trust domain. */
export interface AuthorityPolicy {
  /** As the certificates that it issues name their issuer. */
  readonly subject: string;
  /** Its own certificate, DER. */
  readonly der: Uint8Array;
}

/** A SPIFFE trust domain whose authorities are known. */
export interface TrustDomainPolicy {
  readonly name: string;
  readonly authorities: readonly AuthorityPolicy[];
  /** Its keys for JWT-SVIDs, a JSON Web Key Set; `undefined`: it has none. */
  readonly jwtKeys: string | undefined;
  /** One of these must be among a JWT-SVID's audiences; empty: its JWT-SVIDs are not verified. */
  readonly audiences: readonly string[];
}

export interface IdentityPolicy {
  readonly issuers: readonly IssuerPolicy[];
  /** Direct peers (SPIFFE IDs) whose `x-forwarded-client-cert` is believed; empty: nobody's. */
  readonly xfccHops: readonly RegExp[];
  /** Lower-case name of the header that carries API keys. */
  readonly apiKeyHeader: string | undefined;
  /** Known API keys: lower-case hex SHA-256 of the key to the key's id. */
  readonly apiKeys: Lookup<string>;
  /** SPIFFE IDs that may call at all; empty: any in a verified certificate. */
  readonly trustedSpiffe: readonly RegExp[];
  /** Declared delegation: a certificate `caller` may carry tokens of `subject`. */
  readonly delegations: readonly { readonly caller: RegExp; readonly subject: RegExp }[];
  /** Token issuers whose `jti` may be used once only. */
  readonly singleUseIssuers: readonly string[];
  /** By name; certificates of others are left to Envoy. */
  readonly trustDomains: ReadonlyMap<string, TrustDomainPolicy>;
  readonly registeredKeys: readonly RegisteredKeys[];
  /** What becomes of a token that is bound to a key and comes without a proof by it. */
  readonly requireBoundProof: "challenge" | "deny" | "off";
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
  /** Headers that refusals carry: lower-case name to value. */
  readonly headers?: ReadonlyMap<string, string> | undefined;
  /** What refusals say instead of problem details. */
  readonly bodies?: Readonly<Partial<Record<Exclude<DecisionKind, "allow">, BodyPolicy>>> | undefined;
}

/** What a refusal says; `{decision_id}`, `{decision}` and `{principal}` stand for the verdict's own. */
export interface BodyPolicy {
  readonly contentType: string;
  /** `undefined`: problem details. */
  readonly text: string | undefined;
  /** `undefined`: a fixed text. */
  readonly grpcMessage: string | undefined;
}

/** Everything that a policy decides about one signal catalogue, destination and caller. */
export interface Policy {
  readonly revision: string;
  readonly name: string;
  readonly mode: Mode;
  /** Counts whatever the policy and its rules say; set by the settings of a process. */
  readonly modeForAll?: Mode | undefined;
  readonly thresholds: Thresholds;
  /** First match wins. */
  readonly rules: readonly Rule[];
  /** A principal belongs to the first that has it. */
  readonly peerGroups: readonly PeerGroup[];
  /** By signal name, then by family (the part before the dot); `undefined` means the catalogue's default. One function always answers alike: what it says is remembered by it. */
  signal(name: string): SignalPolicy | undefined;
  readonly identity: IdentityPolicy;
  readonly challenge: ChallengePolicy;
  readonly posture: PosturePolicy;
  readonly response: ResponsePolicy;
  readonly addresses: AddressLists;
  /** TLS fingerprints by exact text: JA4, JA3, or a JA4 cipher part. */
  readonly fingerprints: Lookup<ListHit>;
  readonly geo: GeoLookup;
  readonly locks: readonly Lock[];
  /** Posture facts by principal name, SPIFFE ID or address. */
  readonly postureFacts: Lookup<PostureFacts>;
  readonly streams: StreamPolicy;
  /** How long an automatic lock lasts. */
  readonly autoLockMs: number;
  readonly autoLockScope: AutoLockScope;
}
