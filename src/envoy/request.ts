/** Reads Envoy's CheckRequest into the facts that need no verification. */

import type { JsonObject } from "@bufbuild/protobuf";
import { canonicalAddress } from "../identity/address.ts";
import { CertificateCache, type ParsedCertificate } from "../identity/certificate.ts";
import { parseSpiffeId } from "../identity/spiffe.ts";
import { believeXfcc, XfccCache } from "../identity/xfcc.ts";
import type { Protocol, TlsFacts } from "../model/facts.ts";
import type { CertificateFacts } from "../model/identity.ts";
import { CALLERS_MAX } from "../model/limits.ts";
import type { Shown } from "./anchoring.ts";
import { type Headers, SLOT, WireHeaders } from "./headers.ts";
import { isTextAt, Recurring } from "./recurring.ts";
import { firstChars, ownText } from "./text.ts";
import { textOf } from "./wire-cursor.ts";
import { ClaimsMemo, type Span, type WireAddress, type WireHttp, WireRequest } from "./wire-request.ts";

const PATH_CHARS_MAX = 2048;
const NAME_CHARS_MAX = 256;
const AGENT_CHARS_MAX = 512;
const METHOD_CHARS_MAX = 32;
/** Certificates reported in a longer header get texts of their own. */
const XFCC_CHARS_SHARED_MAX = 4096;
const NO_HEADERS = new WireHeaders(true);
const NO_TLS: TlsFacts = { ja3: undefined, ja4: undefined, version: undefined, sni: undefined };
const NO_CLAIMS: readonly JsonObject[] = Object.freeze([]);

/** A CheckRequest, read; credentials are still secrets here and go no further than verification. */
export interface ReadRequest {
  readonly protocol: Protocol;
  readonly requestId: string | undefined;
  readonly connectionId: string | undefined;
  readonly sourceAddress: string | undefined;
  readonly sourcePort: number | undefined;
  readonly destination: string;
  readonly method: string;
  readonly path: string;
  readonly userAgent: string | undefined;
  readonly tls: TlsFacts;
  readonly requestBytes: number | undefined;
  /** Whether the request itself says that it will last. */
  readonly lasting: boolean;
  readonly certificate: CertificateFacts | undefined;
  readonly peerSpiffeId: string | undefined;
  readonly peerNameInvalid: string | undefined;
  /** A SPIFFE ID that the certificate does not prove by the policy's trust domains; it stands nowhere else. */
  readonly unanchored: string | undefined;
  /** Claims that jwt_authn verified, by the key under which it put them. */
  readonly verifiedClaims: readonly JsonObject[];
  /** The request as proofs name it, whole as sent, and gone once they are verified; `undefined` for raw TCP. */
  readonly target: RequestTarget | undefined;
  /** Tells the peer's certificate as Envoy did (URL-encoded PEM), for as long as the message's bytes are what they were. */
  readonly peerCertificate: (() => string) | undefined;
  /** Text of the token in `authorization`, of scheme `Bearer` or `DPoP`. Secret. */
  readonly bearer: string | undefined;
  readonly headers: Headers;
  readonly faults: readonly string[];
}

/** Method, origin and path as they came over the wire, not as they are remembered. */
export interface RequestTarget {
  readonly method: string;
  readonly scheme: "http" | "https";
  /** With the port, where it was named. */
  readonly authority: string;
  /** Path and query. */
  readonly path: string;
}

/** Certificates kept; a longer-lived process sees few more than it has callers. */
const CERTIFICATES_MAX = CALLERS_MAX;
/** Requests are read one at a time, but for those that wait for a token to be verified. */
const SPARE_MAX = 16;

/** What requests have in common, read once as long as it keeps coming: bounded, and free of secrets. */
export class RequestMemory {
  readonly certificates: CertificateCache;
  readonly forwarded = new XfccCache();
  readonly claims = new ClaimsMemo();
  readonly principals = new Recurring(32_768, peerNameOf);
  readonly addresses = new Recurring(32_768, canonicalAddress);
  readonly agents = new Recurring(32_768, (text) => firstChars(text, AGENT_CHARS_MAX));
  readonly names = new Recurring(4_096, name);
  readonly hosts = new Recurring(1_024, (sent) => ({ sent, host: hostOf(sent) }));
  readonly fingerprints = new Recurring(1_024, fingerprint);
  readonly methods = new Recurring(64, methodOf);
  readonly schemes = new Recurring(16, (text) => text.toLowerCase() === "https");
  readonly tlsVersions = new Recurring(64, (text) => ({ version: name(text), isTls: /^TLS/i.test(text) }));
  readonly contentTypes = new Recurring(256, isGrpc);
  readonly accepted = new Recurring(256, (text) => text.toLowerCase().includes("text/event-stream"));
  readonly upgrades = new Recurring(16, (text) => text.toLowerCase() === "websocket");
  readonly protocols = new Recurring(16, (text) => text === "tcp");

  private readonly spare: WireRequest[] = [];

  constructor(certificatesMax = CERTIFICATES_MAX) {
    this.certificates = new CertificateCache(certificatesMax);
  }

  /** To read a request into, until it is given back. */
  lend(): WireRequest {
    return this.spare.pop() ?? new WireRequest();
  }

  /** Takes back what was lent, once nothing more is asked of what was read into it. */
  giveBack(request: WireRequest): void {
    request.forget();
    if (this.spare.length < SPARE_MAX) this.spare.push(request);
  }
}

/**
 * @param message bytes of an `envoy.service.auth.v3.CheckRequest`; must stay as they are for as long as anything is asked of
 *   `headers` or `peerCertificate`
 * @param xfccHops SPIFFE IDs of direct peers whose `x-forwarded-client-cert` is believed
 * @param isAnchored whether a certificate proves its SPIFFE ID by the policy's trust domains
 * @param request what `memory` lent; `headers` are good until it is given back
 * @throws {WireError} when the bytes are no CheckRequest
 */
export function readRequest(
  message: Uint8Array,
  memory: RequestMemory,
  xfccHops: readonly RegExp[],
  isAnchored: (shown: Shown) => boolean = () => true,
  request = new WireRequest(),
): ReadRequest {
  request.read(message, memory.claims);
  const { bytes, source, destination, http } = request;
  const headers = http?.separate ?? http?.joined ?? NO_HEADERS;
  const faults: string[] = [];
  const sni = memory.names.read(bytes, request.sni.start, request.sni.end);
  const peer = believed(peerOf(request, memory, headers, faults), isAnchored);
  const forwarded = forwardedBy(peer.spiffeId, headers, memory, xfccHops, faults, isAnchored);
  const socket = source.address.kind === "socket" ? source.address : undefined;
  // Behind a proxy the socket is the proxy's: our own Envoy then tells the address that it derived.
  const sourceAddress =
    headers.firstBy(SLOT["x-sallyport-source"], memory.addresses) ??
    (socket === undefined ? undefined : memory.addresses.read(bytes, socket.text.start, socket.text.end));
  if (http === undefined) {
    return {
      protocol: "tcp",
      requestId: undefined,
      connectionId: undefined,
      sourceAddress,
      sourcePort: socket?.port,
      destination:
        sni ??
        memory.names.read(bytes, destination.service.start, destination.service.end) ??
        listenerOf(destination.address),
      method: "CONNECT",
      path: "",
      userAgent: undefined,
      tls: sni === undefined ? NO_TLS : { ...NO_TLS, sni },
      requestBytes: undefined,
      lasting: false,
      certificate: forwarded?.certificate ?? peer.certificate,
      peerSpiffeId: peer.spiffeId,
      peerNameInvalid: peer.nameInvalid,
      unanchored: peer.unanchored ?? forwarded?.unanchored,
      verifiedClaims: NO_CLAIMS,
      target: undefined,
      peerCertificate: peer.encoded,
      bearer: undefined,
      headers,
      faults,
    };
  }
  if (isTunnel(request, headers, memory)) return tunnelled(request, http, headers, memory, isAnchored);
  const tls = headers.firstBy(SLOT["x-sallyport-tls"], memory.tlsVersions);
  const authority = isEmpty(http.host)
    ? headers.firstBy(SLOT[":authority"], memory.hosts)
    : memory.hosts.read(bytes, http.host.start, http.host.end);
  const method = isEmpty(http.method)
    ? headers.firstBy(SLOT[":method"], memory.methods)
    : memory.methods.read(bytes, http.method.start, http.method.end);
  const path = isEmpty(http.path) ? (headers.first(":path") ?? "") : textOf(bytes, http.path.start, http.path.end);
  const isHttps = isEmpty(http.scheme)
    ? headers.firstBy(SLOT[":scheme"], memory.schemes)
    : memory.schemes.read(bytes, http.scheme.start, http.scheme.end);
  // TLS on this connection is Envoy's own word; without a sign of it, the request's scheme counts.
  const isSecure = tls?.isTls === true || sni !== undefined || peer.encoded !== undefined || isHttps === true;
  return {
    protocol: headers.firstBy(SLOT["content-type"], memory.contentTypes) === true ? "grpc" : "http",
    requestId: name(headers.first("x-request-id")),
    connectionId: headers.firstBy(SLOT["x-sallyport-connection"], memory.names),
    sourceAddress,
    sourcePort: socket?.port,
    destination: authority?.host ?? "",
    method: method?.upper ?? "GET",
    path: pathOnly(path),
    userAgent: headers.firstBy(SLOT["user-agent"], memory.agents),
    tls: {
      ja3: headers.firstBy(SLOT["x-sallyport-ja3"], memory.fingerprints),
      ja4: headers.firstBy(SLOT["x-sallyport-ja4"], memory.fingerprints),
      version: tls?.version,
      sni,
    },
    requestBytes: http.size > 0 && http.size < 2 ** 53 ? http.size : undefined,
    lasting: isLasting(headers, memory),
    certificate: forwarded?.certificate ?? peer.certificate,
    peerSpiffeId: peer.spiffeId,
    peerNameInvalid: peer.nameInvalid,
    unanchored: peer.unanchored ?? forwarded?.unanchored,
    verifiedClaims: request.claims,
    target: {
      method: method?.sent ?? "GET",
      scheme: isSecure ? "https" : "http",
      authority: authority?.sent ?? "",
      path,
    },
    // Once a hop has reported somebody else, the connection's certificate answers for the hop only.
    peerCertificate: forwarded === undefined ? peer.encoded : undefined,
    bearer: bearerOf(headers, faults),
    headers,
    faults,
  };
}

/** Listeners inside Envoy whose name begins so are the other end of a tunnel that this Envoy itself opened. */
const TUNNEL_PREFIX = "sallyport";

/**
 * Whether a CONNECT came through a tunnel inside Envoy, for raw TCP: no socket leads there, so that what its headers tell
 * of the caller is this Envoy's own word.
 */
function isTunnel({ bytes, destination }: WireRequest, headers: WireHeaders, memory: RequestMemory): boolean {
  const { listener } = destination.address;
  if (listener === undefined || headers.firstBy(SLOT["x-sallyport-protocol"], memory.protocols) !== true) return false;
  return textOf(bytes, listener.start, listener.end).startsWith(TUNNEL_PREFIX);
}

function tunnelled(
  { bytes }: WireRequest,
  { host }: WireHttp,
  headers: WireHeaders,
  memory: RequestMemory,
  isAnchored: (shown: Shown) => boolean,
): ReadRequest {
  const faults: string[] = [];
  const principal = headers.firstBy(SLOT["x-sallyport-principal"], memory.principals) ?? NO_NAME;
  const encoded = headers.first("x-sallyport-peer-cert") ?? "";
  const parsed = encoded === "" ? undefined : headers.firstBy(SLOT["x-sallyport-peer-cert"], memory.certificates);
  const peer = believed(
    namedPeer(principal, parsed, encoded === "" ? undefined : () => encoded, headers, faults),
    isAnchored,
  );
  const authority = isEmpty(host)
    ? headers.firstBy(SLOT[":authority"], memory.hosts)
    : memory.hosts.read(bytes, host.start, host.end);
  const sni = headers.firstBy(SLOT["x-sallyport-sni"], memory.names);
  const port = Number(headers.first("x-sallyport-source-port"));
  return {
    protocol: "tcp",
    requestId: name(headers.first("x-request-id")),
    connectionId: headers.firstBy(SLOT["x-sallyport-connection"], memory.names),
    sourceAddress: headers.firstBy(SLOT["x-sallyport-source"], memory.addresses),
    sourcePort: Number.isInteger(port) && port > 0 ? port : undefined,
    destination: sni ?? authority?.host ?? "",
    method: "CONNECT",
    path: "",
    userAgent: undefined,
    tls: {
      ja3: headers.firstBy(SLOT["x-sallyport-ja3"], memory.fingerprints),
      ja4: headers.firstBy(SLOT["x-sallyport-ja4"], memory.fingerprints),
      version: headers.firstBy(SLOT["x-sallyport-tls"], memory.tlsVersions)?.version,
      sni,
    },
    requestBytes: undefined,
    lasting: true,
    certificate: peer.certificate,
    peerSpiffeId: peer.spiffeId,
    peerNameInvalid: peer.nameInvalid,
    unanchored: peer.unanchored,
    verifiedClaims: NO_CLAIMS,
    target: undefined,
    peerCertificate: undefined,
    bearer: undefined,
    headers,
    faults,
  };
}

/** What `source.principal` says: a valid SPIFFE ID, or something that names nobody. */
interface PeerName {
  readonly spiffeId: string | undefined;
  readonly invalid: string | undefined;
}

const NO_NAME: PeerName = { spiffeId: undefined, invalid: undefined };

function peerNameOf(principal: string): PeerName {
  if (principal === "") return NO_NAME;
  return parseSpiffeId(principal).ok
    ? { spiffeId: principal, invalid: undefined }
    : { spiffeId: undefined, invalid: firstChars(principal, NAME_CHARS_MAX) };
}

interface Peer {
  readonly certificate: CertificateFacts | undefined;
  readonly spiffeId: string | undefined;
  readonly nameInvalid: string | undefined;
  /** The certificate as it was told, if it was. */
  readonly encoded: (() => string) | undefined;
}

/** The direct peer: what Envoy verified in the TLS handshake. */
function peerOf(request: WireRequest, memory: RequestMemory, headers: WireHeaders, faults: string[]): Peer {
  const { bytes, source } = request;
  const { start, end } = source.certificate;
  if (start === end) return namedPeer(nameOf(source.principal, bytes, memory), undefined, undefined, headers, faults);
  const parsed = memory.certificates.read(bytes, start, end);
  // Envoy takes the name from the certificate, where it has been found valid already.
  const own = parsed.ok ? parsed.certificate.spiffeId : undefined;
  const named =
    own !== undefined && isTextAt(own, bytes, source.principal.start, source.principal.end)
      ? { spiffeId: own, invalid: undefined }
      : nameOf(source.principal, bytes, memory);
  // What is known to be a certificate is text: there, looking again is spared.
  if (!parsed.ok) request.demandUtf8(source.certificate);
  return namedPeer(named, parsed, () => textOf(bytes, start, end), headers, faults);
}

function nameOf({ start, end }: Span, bytes: Buffer, memory: RequestMemory): PeerName {
  return memory.principals.read(bytes, start, end);
}

function namedPeer(
  named: PeerName,
  parsed: ParsedCertificate | undefined,
  encoded: (() => string) | undefined,
  headers: WireHeaders,
  faults: string[],
): Peer {
  const { spiffeId, invalid } = named;
  if (parsed === undefined) {
    const certificate = certificateOfHash(headers.first("x-sallyport-peer-fp"), spiffeId);
    return { certificate, spiffeId, nameInvalid: invalid, encoded };
  }
  if (!parsed.ok) {
    faults.push(`peer certificate: ${parsed.why}`);
    return { certificate: undefined, spiffeId, nameInvalid: invalid, encoded };
  }
  const { certificate, fault } = parsed;
  if (fault === undefined) return { certificate, spiffeId, nameInvalid: invalid, encoded };
  faults.push(fault);
  return { certificate, spiffeId: undefined, nameInvalid: invalid ?? spiffeId, encoded };
}

/** A configuration that leaves `include_peer_certificate` off can still tell the certificate's SHA-256. */
function certificateOfHash(hash: string | undefined, spiffeId: string | undefined): CertificateFacts | undefined {
  if (hash === undefined || !/^[0-9a-f]{64}$/.test(hash)) return undefined;
  return {
    via: "peer",
    sha256: hash,
    spiffeId,
    subject: undefined,
    issuer: undefined,
    serial: undefined,
    notBefore: undefined,
    notAfter: undefined,
    key: undefined,
    x5tS256: Buffer.from(hash, "hex").toString("base64url"),
  };
}

interface BelievedPeer extends Peer {
  readonly unanchored: string | undefined;
}

/** A peer without the SPIFFE ID that its certificate does not prove: it is no hop either. */
function believed(peer: Peer, isAnchored: (shown: Shown) => boolean): BelievedPeer {
  const { certificate, nameInvalid, encoded } = peer;
  const spiffeId = peer.spiffeId ?? certificate?.spiffeId;
  if (spiffeId === undefined || isAnchored({ spiffeId, sha256: certificate?.sha256, encoded })) {
    return { certificate, spiffeId: peer.spiffeId, nameInvalid, encoded, unanchored: undefined };
  }
  return { certificate: unnamed(certificate), spiffeId: undefined, nameInvalid, encoded, unanchored: spiffeId };
}

function unnamed(certificate: CertificateFacts | undefined): CertificateFacts | undefined {
  return certificate === undefined ? undefined : { ...certificate, spiffeId: undefined };
}

interface Forwarded {
  readonly certificate: CertificateFacts | undefined;
  readonly unanchored: string | undefined;
}

function forwardedBy(
  peer: string | undefined,
  headers: WireHeaders,
  memory: RequestMemory,
  hops: readonly RegExp[],
  faults: string[],
  isAnchored: (shown: Shown) => boolean,
): Forwarded | undefined {
  if (peer === undefined || hops.length === 0 || !hops.some((hop) => hop.test(peer))) return undefined;
  const header = headers.firstBy(SLOT["x-forwarded-client-cert"], memory.forwarded);
  if (header === undefined) return undefined;
  const { parsed } = header;
  if (!parsed.ok) {
    faults.push(`x-forwarded-client-cert ${parsed.why}`);
    return undefined;
  }
  const element = believeXfcc(parsed.elements, peer, hops);
  if (element === undefined) return undefined;
  const certificate = header.certificateOf(element);
  if (certificate === undefined) {
    faults.push("x-forwarded-client-cert does not tell a certificate");
    return undefined;
  }
  const own = header.chars <= XFCC_CHARS_SHARED_MAX ? certificate : ownCopy(certificate);
  const { spiffeId, sha256 } = own;
  const { cert } = element;
  if (
    spiffeId === undefined ||
    isAnchored({ spiffeId, sha256, encoded: cert === undefined ? undefined : () => cert })
  ) {
    return { certificate: own, unanchored: undefined };
  }
  return { certificate: unnamed(own), unanchored: spiffeId };
}

function ownCopy(certificate: CertificateFacts): CertificateFacts {
  const own = (text: string | undefined): string | undefined => (text === undefined ? undefined : ownText(text));
  return {
    ...certificate,
    sha256: ownText(certificate.sha256),
    spiffeId: own(certificate.spiffeId),
    subject: own(certificate.subject),
  };
}

/** RFC 6750, section 2.1; RFC 9449, section 7.1. Two authorization headers leave open which one the service will believe. */
function bearerOf(headers: Headers, faults: string[]): string | undefined {
  const value = headers.first("authorization");
  if (value === undefined) return undefined;
  if (headers.count("authorization") > 1 || (value.includes(",") && /,\s*(?:bearer|dpop) /i.test(value))) {
    faults.push("more than one authorization header");
    return undefined;
  }
  return /^(?:bearer|dpop) +(\S+)$/i.exec(value.trim())?.[1];
}

/** RFC 6455, section 4.1; HTML, section 9.2. */
function isLasting(headers: WireHeaders, memory: RequestMemory): boolean {
  return (
    headers.firstBy(SLOT.upgrade, memory.upgrades) === true || headers.firstBy(SLOT.accept, memory.accepted) === true
  );
}

function isGrpc(type: string): boolean {
  return type.startsWith("application/grpc") && !type.startsWith("application/grpc-web");
}

function methodOf(sent: string): { readonly sent: string; readonly upper: string } {
  return { sent, upper: firstChars(sent, METHOD_CHARS_MAX).toUpperCase() };
}

function hostOf(authority: string): string {
  const host = firstChars(authority, NAME_CHARS_MAX).toLowerCase();
  return host.replace(/:\d+$/, "").replace(/\.$/, "");
}

function pathOnly(path: string): string {
  const end = path.search(/[?#]/);
  return firstChars(path, Math.min(end < 0 ? path.length : end, PATH_CHARS_MAX));
}

function fingerprint(value: string | undefined): string | undefined {
  return value !== undefined && /^[\w-]{1,64}$/.test(value) ? value : undefined;
}

function name(value: string | undefined): string | undefined {
  return value === undefined || value === "" ? undefined : firstChars(value, NAME_CHARS_MAX);
}

function listenerOf({ port }: WireAddress): string {
  return port === undefined ? "listener" : `port-${port}`;
}

function isEmpty({ start, end }: Span): boolean {
  return start === end;
}
