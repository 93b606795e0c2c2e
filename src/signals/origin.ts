/** Where a request comes from, split into the steps at which it can be new: address, network, block, country. */

import type { RequestFacts } from "../model/facts.ts";
import { CALLERS_MAX } from "../model/limits.ts";
import type { GeoLookup } from "../model/policy.ts";

export interface Origin {
  readonly address: string | undefined;
  /** /24 of an IPv4 address, /48 of an IPv6 one. */
  readonly network: string | undefined;
  /** `AS64496` where the ASN is known, else the /16 or /32; absent for private addresses, which belong to nobody. */
  readonly block: string | undefined;
  readonly country: string | undefined;
  /** JA4, else JA3, else whatever opaque text stood in its place. */
  readonly fingerprint: string | undefined;
  /** The cipher part of a JA4: the same for one TLS library whatever ALPN, SNI or resumption do. */
  readonly cipher: string | undefined;
  readonly agent: string | undefined;
  /** Product names of the user agent without versions. */
  readonly product: string | undefined;
}

const JA4 = /^[a-z]\d\d[di]\d{4}[0-9a-z]{2}_([0-9a-f]{12})_[0-9a-f]{12}$/;
const CACHE_MAX = 4096;
const products = new Map<string, string>();

/** Origins by their text, per source of geography; bounded, and dropped together with a replaced policy. */
const origins = new WeakMap<GeoLookup, KnownOrigins>();
const ORIGINS_MAX = CALLERS_MAX;

export function originOf(facts: RequestFacts, geo: GeoLookup): Origin {
  let known = origins.get(geo);
  if (known === undefined) {
    known = new KnownOrigins(geo);
    origins.set(geo, known);
  }
  return known.of(facts);
}

/**
 * Origins read before. The one used last at an address is found without putting its whole text together, and only where
 * there are several at an address are they kept by that.
 */
class KnownOrigins {
  private readonly latest = new Map<string, Origin>();
  private readonly several = new Map<string, Origin>();
  private readonly geo: GeoLookup;

  constructor(geo: GeoLookup) {
    this.geo = geo;
  }

  of(facts: RequestFacts): Origin {
    const address = facts.sourceAddress ?? "";
    const fingerprint = facts.tls.ja4 ?? facts.tls.ja3;
    const latest = this.latest.get(address);
    if (latest !== undefined && latest.agent === facts.userAgent && latest.fingerprint === fingerprint) return latest;
    let origin = latest === undefined ? undefined : this.several.get(textOf(address, fingerprint, facts.userAgent));
    if (origin === undefined) {
      origin = readOrigin(facts, this.geo);
      if (this.latest.size + this.several.size >= ORIGINS_MAX) {
        this.latest.clear();
        this.several.clear();
      }
      if (latest !== undefined) {
        for (const one of [latest, origin]) this.several.set(textOf(address, one.fingerprint, one.agent), one);
      }
    }
    this.latest.set(address, origin);
    return origin;
  }
}

function textOf(address: string, fingerprint: string | undefined, agent: string | undefined): string {
  return `${address}|${fingerprint ?? ""}|${agent ?? "\n"}`;
}

function readOrigin(facts: RequestFacts, geo: GeoLookup): Origin {
  const address = facts.sourceAddress;
  const place = address === undefined ? undefined : geo.place(address);
  const fingerprint = facts.tls.ja4 ?? facts.tls.ja3;
  const cipher = fingerprint === undefined ? undefined : (JA4.exec(fingerprint)?.[1] ?? fingerprint);
  const product = facts.userAgent === undefined ? undefined : productOf(facts.userAgent);
  return {
    address,
    network: address === undefined ? undefined : prefixOf(address, 3),
    block: address === undefined || isPrivate(address) ? undefined : blockOf(address, place?.asn),
    country: place?.country,
    fingerprint,
    cipher,
    agent: facts.userAgent,
    product,
  };
}

function blockOf(address: string, asn: number | undefined): string {
  return asn === undefined ? prefixOf(address, 2) : `AS${asn}`;
}

/** Addresses that are not routed between organisations (RFC 1918, 6598, 3927, 4193, 4291): pods move freely in them. */
const PRIVATE =
  /^(?:10\.|127\.|192\.168\.|169\.254\.|172\.(?:1[6-9]|2\d|3[01])\.|100\.(?:6[4-9]|[7-9]\d|1[01]\d|12[0-7])\.|f[cd][0-9a-f]{2}:|fe[89ab][0-9a-f]:|::1$)/;

export function isPrivate(address: string): boolean {
  return PRIVATE.test(address);
}

/** Product names of a user agent in order, without versions and comments: `orders/1.4.1 Go-http-client/2.0` → `orders Go-http-client`. */
export function productOf(agent: string): string {
  const cached = products.get(agent);
  if (cached !== undefined) return cached;
  const names = agent
    .replace(/\([^)]*\)/g, " ")
    .split(/\s+/)
    .map((part) => part.split("/")[0] ?? "")
    .map((name) => name.replace(/[-_.]?v?\d[\d.]*$/, ""))
    .filter((name) => name !== "");
  // Go and gRPC libraries put their own name before or after the application's: order does not matter.
  const product = [...new Set(names)].sort().join(" ");
  if (products.size >= CACHE_MAX) products.clear();
  products.set(agent, product);
  return product;
}

/** First groups of an address: 3 of IPv4 is its /24, 2 its /16; for IPv6 3 groups are its /48 and 2 its /32. */
function prefixOf(address: string, groups: number): string {
  const separator = address.includes(":") ? ":" : ".";
  let end = -1;
  for (let i = 0; i < groups; i++) {
    end = address.indexOf(separator, end + 1);
    if (end === -1) return address;
    // An IPv6 `::` closes the prefix: what follows is zeros of unknown number, which share the network anyway.
    if (separator === ":" && address.charCodeAt(end + 1) === 58) return `${address.slice(0, end)}::`;
  }
  return address.slice(0, end);
}
