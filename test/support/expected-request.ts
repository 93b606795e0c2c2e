/**
 * Reads a decoded CheckRequest: what `src/envoy/request.ts` reads from bytes is held to it. Written for reading, not for
 * speed.
 */

import type { JsonObject } from "@bufbuild/protobuf";
import type { Headers } from "../../src/envoy/headers.ts";
import type { ReadRequest } from "../../src/envoy/request.ts";
import { firstChars } from "../../src/envoy/text.ts";
import { JWT_AUTHN } from "../../src/envoy/wire-request.ts";
import type { EnvoyInternalAddress } from "../../src/gen/envoy/config/core/v3/address_pb.ts";
import type { AttributeContext_HttpRequest } from "../../src/gen/envoy/service/auth/v3/attribute_context_pb.ts";
import type { CheckRequest } from "../../src/gen/envoy/service/auth/v3/external_auth_pb.ts";
import { canonicalAddress } from "../../src/identity/address.ts";
import { parsePeerCertificate } from "../../src/identity/certificate.ts";
import { parseSpiffeId } from "../../src/identity/spiffe.ts";
import { believeXfcc, certificateFromXfcc, parseXfcc } from "../../src/identity/xfcc.ts";
import type { TlsFacts } from "../../src/model/facts.ts";
import type { CertificateFacts } from "../../src/model/identity.ts";

const PATH_CHARS_MAX = 2048;
const NAME_CHARS_MAX = 256;
const AGENT_CHARS_MAX = 512;
const METHOD_CHARS_MAX = 32;
const NO_HEADERS: Headers = { first: () => undefined, all: () => [], count: () => 0, names: () => [] };
const NO_TLS: TlsFacts = { ja3: undefined, ja4: undefined, version: undefined, sni: undefined };

/** What is read of a request, its certificate as text. */
export type ExpectedRequest = Omit<ReadRequest, "peerCertificate"> & { readonly peerCertificate: string | undefined };

/** A certificate that somebody presented. */
export interface ExpectedShown {
  readonly spiffeId: string;
  readonly sha256: string | undefined;
  readonly encoded: string | undefined;
}

/**
 * @param xfccHops SPIFFE IDs of direct peers whose `x-forwarded-client-cert` is believed
 * @param isAnchored whether a certificate proves its SPIFFE ID by the policy's trust domains
 */
export function expectedRequest(
  request: CheckRequest,
  xfccHops: readonly RegExp[],
  isAnchored: (shown: ExpectedShown) => boolean = () => true,
): ExpectedRequest {
  const attributes = request.attributes;
  const http = attributes?.request?.http;
  const headers = http === undefined ? NO_HEADERS : headersOf(http);
  const faults: string[] = [];
  const source = attributes?.source;
  const socket = source?.address?.address;
  const sni = name(attributes?.tlsSession?.sni);
  const peer = believed(
    peerOf(source?.principal ?? "", source?.certificate ?? "", headers, faults),
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
    return { ...tunnelled(headers, authority, isAnchored), headers };
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
  authority: string,
  isAnchored: (shown: ExpectedShown) => boolean,
): Omit<ExpectedRequest, "headers"> {
  const faults: string[] = [];
  const certificate = headers.first("x-sallyport-peer-cert") ?? "";
  const peer = believed(
    peerOf(headers.first("x-sallyport-principal") ?? "", certificate, headers, faults),
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
function peerOf(principal: string, encoded: string, headers: Headers, faults: string[]): Peer {
  const valid = principal !== "" && parseSpiffeId(principal).ok;
  let spiffeId = valid ? principal : undefined;
  let nameInvalid = principal !== "" && !valid ? firstChars(principal, NAME_CHARS_MAX) : undefined;
  let certificate: CertificateFacts | undefined;
  if (encoded !== "") {
    const parsed = parsePeerCertificate(encoded);
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
  isAnchored: (shown: ExpectedShown) => boolean,
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
  isAnchored: (shown: ExpectedShown) => boolean,
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
  const own = certificate;
  const { spiffeId, sha256 } = own;
  if (spiffeId === undefined || isAnchored({ spiffeId, sha256, encoded: element.cert })) {
    return { certificate: own, unanchored: undefined };
  }
  return { certificate: unnamed(own), unanchored: spiffeId };
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

const text = new TextDecoder();

function headersOf(http: AttributeContext_HttpRequest): Headers {
  return http.headerMap === undefined ? joined(http.headers) : separate(http.headerMap.headers);
}

function joined(headers: Readonly<Record<string, string>>): Headers {
  return {
    first: (name) => (Object.hasOwn(headers, name) ? headers[name] : undefined),
    all: (name) => (Object.hasOwn(headers, name) ? [headers[name] as string] : []),
    count: (name) => (Object.hasOwn(headers, name) ? 1 : 0),
    names: (prefix) => Object.keys(headers).filter((name) => name.startsWith(prefix)),
  };
}

function separate(
  entries: readonly { readonly key: string; readonly value: string; readonly rawValue: Uint8Array }[],
): Headers {
  const values = new Map<string, string[]>();
  for (const { key, value, rawValue } of entries) {
    const name = key.toLowerCase();
    const found = values.get(name);
    const content = rawValue.length > 0 ? text.decode(rawValue) : value;
    if (found === undefined) values.set(name, [content]);
    else found.push(content);
  }
  return {
    first: (name) => values.get(name)?.[0],
    all: (name) => values.get(name) ?? [],
    count: (name) => values.get(name)?.length ?? 0,
    names: (prefix) => [...values.keys()].filter((name) => name.startsWith(prefix)),
  };
}
