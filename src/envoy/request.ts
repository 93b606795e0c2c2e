/** Reads Envoy's CheckRequest into the facts that need no verification. */

import type { JsonObject } from "@bufbuild/protobuf";
import type { EnvoyInternalAddress } from "../gen/envoy/config/core/v3/address_pb.ts";
import type { CheckRequest } from "../gen/envoy/service/auth/v3/external_auth_pb.ts";
import { canonicalAddress } from "../identity/address.ts";
import type { CertificateCache } from "../identity/certificate.ts";
import { parseSpiffeId } from "../identity/spiffe.ts";
import { believeXfcc, certificateFromXfcc, parseXfcc } from "../identity/xfcc.ts";
import type { Protocol, TlsFacts } from "../model/facts.ts";
import type { CertificateFacts } from "../model/identity.ts";
import type { Shown } from "./anchoring.ts";
import { type Headers, headersOf } from "./headers.ts";
import { firstChars, ownText } from "./text.ts";

/** Headers set by and for us begin so; the shipped Envoy configurations remove what a client sends of them. */
export const OWN_PREFIX = "x-sallyport-";
/** Where Envoy's jwt_authn filter puts the claims of tokens that it verified. */
export const JWT_AUTHN = "envoy.filters.http.jwt_authn";

const PATH_CHARS_MAX = 2048;
const NAME_CHARS_MAX = 256;
const AGENT_CHARS_MAX = 512;
const METHOD_CHARS_MAX = 32;
/** Certificates reported in a longer header get texts of their own. */
const XFCC_CHARS_SHARED_MAX = 4096;
const NO_HEADERS: Headers = { first: () => undefined, all: () => [], count: () => 0, names: () => [] };
const NO_TLS: TlsFacts = { ja3: undefined, ja4: undefined, version: undefined, sni: undefined };

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
  /** The peer's certificate as Envoy told it (URL-encoded PEM). */
  readonly peerCertificate: string | undefined;
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

/**
 * @param xfccHops SPIFFE IDs of direct peers whose `x-forwarded-client-cert` is believed
 * @param isAnchored whether a certificate proves its SPIFFE ID by the policy's trust domains
 */
export function readRequest(
  request: CheckRequest,
  certificates: CertificateCache,
  xfccHops: readonly RegExp[],
  isAnchored: (shown: Shown) => boolean = () => true,
): ReadRequest {
  const attributes = request.attributes;
  const http = attributes?.request?.http;
  const headers = http === undefined ? NO_HEADERS : headersOf(http);
  const faults: string[] = [];
  const source = attributes?.source;
  const socket = source?.address?.address;
  const sni = name(attributes?.tlsSession?.sni);
  const peer = believed(
    peerOf(source?.principal ?? "", source?.certificate ?? "", certificates, headers, faults),
    source?.certificate || undefined,
    isAnchored,
  );
  const forwarded = forwardedBy(peer.spiffeId, headers, xfccHops, faults, isAnchored);
  const presented = {
    unanchored: peer.unanchored ?? forwarded?.unanchored,
    certificate: forwarded?.certificate ?? peer.certificate,
    peerSpiffeId: peer.spiffeId,
    peerNameInvalid: peer.nameInvalid,
    // Once a hop has reported somebody else, the connection's certificate answers for the hop only.
    peerCertificate: forwarded === undefined ? source?.certificate || undefined : undefined,
  };
  const connection = {
    connectionId: name(headers.first("x-sallyport-connection")),
    // Behind a proxy the socket is the proxy's: our own Envoy then tells the address that it derived.
    sourceAddress:
      canonicalAddress(headers.first("x-sallyport-source") ?? "") ??
      (socket?.case === "socketAddress" ? canonicalAddress(socket.value.address) : undefined),
    sourcePort:
      socket?.case === "socketAddress" && socket.value.portSpecifier.case === "portValue"
        ? socket.value.portSpecifier.value
        : undefined,
  };
  if (http === undefined) {
    return {
      ...connection,
      ...presented,
      protocol: "tcp",
      requestId: undefined,
      destination:
        sni ?? name(attributes?.destination?.service) ?? listenerOf(attributes?.destination?.address?.address),
      method: "CONNECT",
      path: "",
      userAgent: undefined,
      tls: sni === undefined ? NO_TLS : { ...NO_TLS, sni },
      requestBytes: undefined,
      lasting: false,
      verifiedClaims: [],
      target: undefined,
      bearer: undefined,
      headers,
      faults,
    };
  }
  if (isTunnel(attributes?.destination?.address?.address, headers)) {
    const authority = hostOf(http.host || (headers.first(":authority") ?? ""));
    return { ...tunnelled(headers, certificates, authority, isAnchored), headers };
  }
  const path = http.path === "" ? (headers.first(":path") ?? "") : http.path;
  return {
    ...connection,
    ...presented,
    protocol: isGrpc(headers) ? "grpc" : "http",
    requestId: name(headers.first("x-request-id")),
    destination: hostOf(http.host === "" ? (headers.first(":authority") ?? "") : http.host),
    method: firstChars(http.method || (headers.first(":method") ?? "GET"), METHOD_CHARS_MAX).toUpperCase(),
    path: pathOnly(path),
    userAgent: agentOf(headers.first("user-agent")),
    tls: {
      ja3: fingerprint(headers.first("x-sallyport-ja3")),
      ja4: fingerprint(headers.first("x-sallyport-ja4")),
      version: name(headers.first("x-sallyport-tls")),
      sni,
    },
    lasting: isLasting(headers),
    requestBytes: http.size > 0n && http.size < 2n ** 53n ? Number(http.size) : undefined,
    target: {
      method: http.method || (headers.first(":method") ?? "GET"),
      scheme: schemeOf(http.scheme || headers.first(":scheme"), headers, sni, source?.certificate ?? ""),
      authority: http.host === "" ? (headers.first(":authority") ?? "") : http.host,
      path,
    },
    verifiedClaims: claimsOf(attributes?.metadataContext?.filterMetadata[JWT_AUTHN]),
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
function isTunnel(
  destination: { readonly case: string | undefined; readonly value?: unknown } | undefined,
  headers: Headers,
): boolean {
  if (destination?.case !== "envoyInternalAddress" || headers.first("x-sallyport-protocol") !== "tcp") return false;
  const { addressNameSpecifier } = destination.value as EnvoyInternalAddress;
  return addressNameSpecifier.case === "serverListenerName" && addressNameSpecifier.value.startsWith(TUNNEL_PREFIX);
}

function tunnelled(
  headers: Headers,
  certificates: CertificateCache,
  authority: string,
  isAnchored: (shown: Shown) => boolean,
): Omit<ReadRequest, "headers"> {
  const faults: string[] = [];
  const certificate = headers.first("x-sallyport-peer-cert") ?? "";
  const peer = believed(
    peerOf(headers.first("x-sallyport-principal") ?? "", certificate, certificates, headers, faults),
    certificate || undefined,
    isAnchored,
  );
  const sni = name(headers.first("x-sallyport-sni"));
  const port = Number(headers.first("x-sallyport-source-port"));
  return {
    protocol: "tcp",
    requestId: name(headers.first("x-request-id")),
    connectionId: name(headers.first("x-sallyport-connection")),
    sourceAddress: canonicalAddress(headers.first("x-sallyport-source") ?? ""),
    sourcePort: Number.isInteger(port) && port > 0 ? port : undefined,
    destination: sni ?? authority,
    method: "CONNECT",
    path: "",
    userAgent: undefined,
    tls: {
      ja3: fingerprint(headers.first("x-sallyport-ja3")),
      ja4: fingerprint(headers.first("x-sallyport-ja4")),
      version: name(headers.first("x-sallyport-tls")),
      sni,
    },
    requestBytes: undefined,
    lasting: true,
    target: undefined,
    peerCertificate: undefined,
    certificate: peer.certificate,
    unanchored: peer.unanchored,
    peerSpiffeId: peer.spiffeId,
    peerNameInvalid: peer.nameInvalid,
    verifiedClaims: [],
    bearer: undefined,
    faults,
  };
}

interface Peer {
  readonly certificate: CertificateFacts | undefined;
  readonly spiffeId: string | undefined;
  readonly nameInvalid: string | undefined;
}

/** The direct peer: what Envoy verified in the TLS handshake. */
function peerOf(
  principal: string,
  encoded: string,
  certificates: CertificateCache,
  headers: Headers,
  faults: string[],
): Peer {
  const valid = principal !== "" && parseSpiffeId(principal).ok;
  let spiffeId = valid ? principal : undefined;
  let nameInvalid = principal !== "" && !valid ? firstChars(principal, NAME_CHARS_MAX) : undefined;
  let certificate: CertificateFacts | undefined;
  if (encoded !== "") {
    const parsed = certificates.parse(encoded);
    if (!parsed.ok) {
      faults.push(`peer certificate: ${parsed.why}`);
    } else {
      certificate = parsed.certificate;
      if (parsed.fault !== undefined) {
        faults.push(parsed.fault);
        nameInvalid ??= spiffeId;
        spiffeId = undefined;
      }
    }
  } else {
    certificate = certificateOfHash(headers.first("x-sallyport-peer-fp"), spiffeId);
  }
  return { certificate, spiffeId, nameInvalid };
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

/** A peer without the SPIFFE ID that its certificate does not prove: it is no hop either. */
function believed(
  peer: Peer,
  encoded: string | undefined,
  isAnchored: (shown: Shown) => boolean,
): Peer & { readonly unanchored: string | undefined } {
  const spiffeId = peer.spiffeId ?? peer.certificate?.spiffeId;
  if (spiffeId === undefined || isAnchored({ spiffeId, sha256: peer.certificate?.sha256, encoded })) {
    return { ...peer, unanchored: undefined };
  }
  return { ...peer, spiffeId: undefined, certificate: unnamed(peer.certificate), unanchored: spiffeId };
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
  headers: Headers,
  hops: readonly RegExp[],
  faults: string[],
  isAnchored: (shown: Shown) => boolean,
): Forwarded | undefined {
  const header = headers.first("x-forwarded-client-cert");
  if (header === undefined || peer === undefined || !hops.some((hop) => hop.test(peer))) return undefined;
  const parsed = parseXfcc(header);
  if (!parsed.ok) {
    faults.push(`x-forwarded-client-cert ${parsed.why}`);
    return undefined;
  }
  const element = believeXfcc(parsed.elements, peer, hops);
  if (element === undefined) return undefined;
  const certificate = certificateFromXfcc(element);
  if (certificate === undefined) {
    faults.push("x-forwarded-client-cert does not tell a certificate");
    return undefined;
  }
  const own = header.length <= XFCC_CHARS_SHARED_MAX ? certificate : ownCopy(certificate);
  const { spiffeId, sha256 } = own;
  if (spiffeId === undefined || isAnchored({ spiffeId, sha256, encoded: element.cert })) {
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

function claimsOf(metadata: JsonObject | undefined): readonly JsonObject[] {
  if (metadata === undefined) return [];
  const claims: JsonObject[] = [];
  for (const value of Object.values(metadata)) {
    // Only payloads have an issuer: headers of tokens and failure notes are put beside them.
    if (typeof value === "object" && value !== null && !Array.isArray(value) && typeof value.iss === "string") {
      claims.push(value);
    }
  }
  return claims;
}

/** RFC 6750, section 2.1; RFC 9449, section 7.1. Two authorization headers leave open which one the service will believe. */
function bearerOf(headers: Headers, faults: string[]): string | undefined {
  const value = headers.first("authorization");
  if (value === undefined) return undefined;
  if (headers.count("authorization") > 1 || /,\s*(?:bearer|dpop) /i.test(value)) {
    faults.push("more than one authorization header");
    return undefined;
  }
  return /^(?:bearer|dpop) +(\S+)$/i.exec(value.trim())?.[1];
}

/** TLS on this connection is Envoy's own word; without a sign of it, the request's scheme counts. */
function schemeOf(
  scheme: string | undefined,
  headers: Headers,
  sni: string | undefined,
  certificate: string,
): "http" | "https" {
  const tls = /^TLS/i.test(headers.first("x-sallyport-tls") ?? "") || sni !== undefined || certificate !== "";
  return tls || scheme?.toLowerCase() === "https" ? "https" : "http";
}

/** RFC 6455, section 4.1; HTML, section 9.2. */
function isLasting(headers: Headers): boolean {
  if (headers.first("upgrade")?.toLowerCase() === "websocket") return true;
  return headers.first("accept")?.toLowerCase().includes("text/event-stream") === true;
}

function isGrpc(headers: Headers): boolean {
  const type = headers.first("content-type");
  return type?.startsWith("application/grpc") === true && !type.startsWith("application/grpc-web");
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

function agentOf(value: string | undefined): string | undefined {
  return value === undefined ? undefined : firstChars(value, AGENT_CHARS_MAX);
}

function listenerOf(address: { readonly case: string | undefined; readonly value?: unknown } | undefined): string {
  if (address?.case === "socketAddress") {
    const { portSpecifier } = address.value as { portSpecifier: { case: string | undefined; value?: unknown } };
    if (portSpecifier.case === "portValue") return `port-${String(portSpecifier.value)}`;
  }
  return "listener";
}
