/** Reads SPIFFE IDs by the specification, with its limits. */

/** SPIFFE-ID specification, section 2.3: at most 2,048 bytes; section 2.1: a trust domain name of at most 255 bytes. */
const ID_BYTES_MAX = 2048;
const TRUST_DOMAIN_BYTES_MAX = 255;
const SCHEME = "spiffe://";
const TRUST_DOMAIN = /^[a-z0-9._-]+$/;
const SEGMENT = /^[a-zA-Z0-9._-]+$/;

export interface SpiffeId {
  readonly trustDomain: string;
  /** Begins with `/`, or empty for the trust domain's own ID. */
  readonly path: string;
}

export type ParsedSpiffeId =
  | { readonly ok: true; readonly id: SpiffeId }
  | { readonly ok: false; readonly why: string };

/** SPIFFE-ID specification, section 2: scheme, trust domain, path; no query, fragment, port, user or escapes. */
export function parseSpiffeId(text: string): ParsedSpiffeId {
  if (text === "") return refuse("is empty");
  if (Buffer.byteLength(text) > ID_BYTES_MAX) return refuse(`is longer than ${ID_BYTES_MAX} bytes`);
  if (!text.startsWith(SCHEME)) return refuse("does not begin with spiffe://");
  const slash = text.indexOf("/", SCHEME.length);
  const trustDomain = slash === -1 ? text.slice(SCHEME.length) : text.slice(SCHEME.length, slash);
  if (trustDomain === "") return refuse("has no trust domain");
  if (trustDomain.length > TRUST_DOMAIN_BYTES_MAX) {
    return refuse(`has a trust domain longer than ${TRUST_DOMAIN_BYTES_MAX} bytes`);
  }
  if (!TRUST_DOMAIN.test(trustDomain)) return refuse("has a trust domain with characters other than a-z 0-9 . _ -");
  const path = slash === -1 ? "" : text.slice(slash);
  if (path !== "") {
    for (const segment of path.slice(1).split("/")) {
      if (segment === "") return refuse("has an empty path segment");
      if (segment === "." || segment === "..") return refuse("has a relative path segment");
      if (!SEGMENT.test(segment)) return refuse("has a path segment with characters other than a-z A-Z 0-9 . _ -");
    }
  }
  return { ok: true, id: { trustDomain, path } };
}

function refuse(why: string): ParsedSpiffeId {
  return { ok: false, why };
}
