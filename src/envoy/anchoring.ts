/** Tells whether a certificate was issued by an authority of the trust domain that its SPIFFE ID names. */

import { X509Certificate } from "node:crypto";
import { parseSpiffeId } from "../identity/spiffe.ts";
import { CALLERS_MAX } from "../model/limits.ts";
import type { IdentityPolicy, TrustDomainPolicy } from "../model/policy.ts";

/** Results kept for one policy; the oldest is forgotten. */
const RESULTS_MAX = CALLERS_MAX;
/** Authorities of one name whose signature is tried: a domain that rotates them has two or three. */
const TRIED_MAX = 16;

type TrustDomains = IdentityPolicy["trustDomains"];

/** A certificate that somebody presented. */
export interface Shown {
  /** The SPIFFE ID that it is to stand for. */
  readonly spiffeId: string;
  /** SHA-256 of the DER, lower-case hex. */
  readonly sha256: string | undefined;
  /** Tells it as PEM, percent-encoded; `undefined` where only its hash or its name was told. */
  readonly encoded: (() => string) | undefined;
}

interface Result {
  readonly anchored: boolean;
  readonly untilMs: number;
}

/** Verifies a certificate once for each policy. */
export class Anchoring {
  private readonly results = new WeakMap<TrustDomains, Map<string, Result>>();
  private readonly now: () => number;

  /** @param now milliseconds since the epoch */
  constructor(now: () => number) {
    this.now = now;
  }

  /**
   * Whether the SPIFFE ID may be believed. That of a listed trust domain may when one of the domain's own authorities
   * issued the certificate; a certificate that was not shown vouches for nothing. That of another domain may unless an
   * authority of a listed one issued the certificate: none vouches for names of others.
   */
  isAnchored(shown: Shown, domains: TrustDomains): boolean {
    if (domains.size === 0) return true;
    const parsed = parseSpiffeId(shown.spiffeId);
    if (!parsed.ok) return false;
    const domain = domains.get(parsed.id.trustDomain);
    if (shown.encoded === undefined || shown.sha256 === undefined) return domain === undefined;
    const results = this.resultsOf(domains);
    const key = `${shown.sha256} ${parsed.id.trustDomain}`;
    const known = results.get(key);
    const now = this.now();
    if (known !== undefined && now < known.untilMs) return known.anchored;
    const result = judge(shown.encoded(), domain, domains, now);
    results.delete(key);
    results.set(key, result);
    if (results.size > RESULTS_MAX) {
      const oldest = results.keys().next().value;
      if (oldest !== undefined) results.delete(oldest);
    }
    return result.anchored;
  }

  private resultsOf(domains: TrustDomains): Map<string, Result> {
    let results = this.results.get(domains);
    if (results === undefined) {
      results = new Map();
      this.results.set(domains, results);
    }
    return results;
  }
}

function judge(encoded: string, domain: TrustDomainPolicy | undefined, domains: TrustDomains, now: number): Result {
  let leaf: X509Certificate;
  try {
    leaf = new X509Certificate(decodeURIComponent(encoded));
  } catch {
    return { anchored: false, untilMs: Number.POSITIVE_INFINITY }; // fails closed: what cannot be read vouches for nothing
  }
  if (domain !== undefined) {
    const untilMs = issuedUntil(leaf, domain, now);
    // An authority whose time has not come yet may be the one later on.
    return untilMs === undefined ? { anchored: false, untilMs: now + REFUSED_MS } : { anchored: true, untilMs };
  }
  const foreign = [...domains.values()].some((listed) => issuedUntil(leaf, listed, now) !== undefined);
  return { anchored: !foreign, untilMs: Number.POSITIVE_INFINITY };
}

const REFUSED_MS = 60_000;

/** Until when one of the domain's authorities vouches for the certificate; `undefined`: none does. */
function issuedUntil(leaf: X509Certificate, { authorities }: TrustDomainPolicy, now: number): number | undefined {
  const named = authorities.filter(({ subject }) => subject === leaf.issuer).slice(0, TRIED_MAX);
  for (const { der } of named) {
    const authority = new X509Certificate(der);
    const [from, until] = [Date.parse(authority.validFrom), Date.parse(authority.validTo)];
    if (!(from <= now && now < until)) continue;
    if (leaf.checkIssued(authority) && leaf.verify(authority.publicKey)) return until;
  }
  return undefined;
}
