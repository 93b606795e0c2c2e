/** Reads `x-forwarded-client-cert`, the client's certificate as an earlier Envoy reports it. */

import type { CertificateFacts } from "../model/identity.ts";
import { CALLERS_MAX } from "../model/limits.ts";
import { BytesMemo } from "./bytes-memo.ts";
import { parsePeerCertificate } from "./certificate.ts";
import { parseSpiffeId } from "./spiffe.ts";

const HEADER_CHARS_MAX = 64 * 1024;
const ELEMENTS_MAX = 32;

/** One element: what one hop says of the certificate that it was shown. */
export interface XfccElement {
  readonly by: readonly string[];
  readonly hash: string | undefined;
  readonly subject: string | undefined;
  readonly uris: readonly string[];
  readonly dns: readonly string[];
  /** URL-encoded PEM. */
  readonly cert: string | undefined;
}

export type ParsedXfcc =
  | { readonly ok: true; readonly elements: readonly XfccElement[] }
  | { readonly ok: false; readonly why: string };

/** Envoy's format: elements divided by `,`, fields by `;`, values quoted with `"` where they hold any of `,;="`. */
export function parseXfcc(header: string): ParsedXfcc {
  if (header.length > HEADER_CHARS_MAX) return { ok: false, why: `longer than ${HEADER_CHARS_MAX} characters` };
  const elements: XfccElement[] = [];
  for (const part of splitOutsideQuotes(header, ",")) {
    if (part === undefined) return { ok: false, why: "has an unclosed quote" };
    if (part.trim() === "") return { ok: false, why: "has an empty element" };
    if (elements.length >= ELEMENTS_MAX) return { ok: false, why: `has more than ${ELEMENTS_MAX} elements` };
    const element = parseElement(part);
    if (element === undefined) return { ok: false, why: "has a field without =" };
    elements.push(element);
  }
  return { ok: true, elements };
}

function parseElement(text: string): XfccElement | undefined {
  const by: string[] = [];
  const uris: string[] = [];
  const dns: string[] = [];
  let hash: string | undefined;
  let subject: string | undefined;
  let cert: string | undefined;
  for (const field of splitOutsideQuotes(text, ";")) {
    if (field === undefined) return undefined;
    const equals = field.indexOf("=");
    if (equals < 0) return undefined;
    const value = unquote(field.slice(equals + 1).trim());
    switch (field.slice(0, equals).trim().toLowerCase()) {
      case "by":
        by.push(value);
        break;
      case "hash":
        hash = value.toLowerCase();
        break;
      case "subject":
        subject = value;
        break;
      case "uri":
        if (value !== "") uris.push(value);
        break;
      case "dns":
        dns.push(value);
        break;
      case "cert":
        cert = value;
        break;
    }
  }
  return { by, hash, subject, uris, dns, cert };
}

/** Headers remembered; the one that came first is forgotten beyond. */
const REMEMBERED_MAX = CALLERS_MAX;
const REMEMBERED_BYTES_MAX = 16 * 1024 * 1024;
/** Longer ones are parsed anew each time. */
const REMEMBERED_CHARS_MAX = 4_096;

/** One header's value, parsed, with the certificates that it tells of. */
export class ForwardedHeader {
  readonly parsed: ParsedXfcc;
  /** Length of its text. */
  readonly chars: number;
  private readonly certificates = new Map<XfccElement, CertificateFacts | undefined>();

  constructor(text: string) {
    this.parsed = parseXfcc(text);
    this.chars = text.length;
  }

  /** {@link certificateFromXfcc}, once for each element. */
  certificateOf(element: XfccElement): CertificateFacts | undefined {
    if (this.certificates.has(element)) return this.certificates.get(element);
    const certificate = certificateFromXfcc(element);
    this.certificates.set(element, certificate);
    return certificate;
  }
}

/** Remembers parsed headers by their very bytes: a hop sends the same one with every request of one connection. Bounded. */
export class XfccCache {
  private readonly known = new BytesMemo<ForwardedHeader>({
    entriesMax: REMEMBERED_MAX,
    bytesMax: REMEMBERED_BYTES_MAX,
  });

  /** Parses what lies between; U+FFFD stands for what is no UTF-8. */
  read(bytes: Buffer, start: number, end: number): ForwardedHeader {
    const known = this.known.find(bytes, start, end);
    if (known !== undefined) return known;
    const header = new ForwardedHeader(lenient.decode(bytes.subarray(start, end)));
    if (header.chars <= REMEMBERED_CHARS_MAX) this.known.add(bytes, start, end, header);
    return header;
  }
}

const lenient = new TextDecoder();

/**
 * The certificate that an element tells of; its SPIFFE ID counts only when there is exactly one URI and it is valid.
 * @returns `undefined` when the element holds no SHA-256 to know the certificate by
 */
export function certificateFromXfcc(element: XfccElement): CertificateFacts | undefined {
  if (element.cert !== undefined) {
    const parsed = parsePeerCertificate(element.cert);
    if (!parsed.ok) return undefined;
    // The hop's own statement of the hash must be about the certificate that it passes on.
    if (element.hash !== undefined && element.hash !== parsed.certificate.sha256) return undefined;
    return { ...parsed.certificate, via: "xfcc" };
  }
  if (element.hash === undefined || !/^[0-9a-f]{64}$/.test(element.hash)) return undefined;
  const uri = element.uris.length === 1 ? element.uris[0] : undefined;
  return {
    via: "xfcc",
    sha256: element.hash,
    spiffeId: uri !== undefined && isWorkload(uri) ? uri : undefined,
    subject: element.subject,
    issuer: undefined,
    serial: undefined,
    notBefore: undefined,
    notAfter: undefined,
    key: undefined,
    x5tS256: Buffer.from(element.hash, "hex").toString("base64url"),
  };
}

/**
 * The element to believe when the direct peer is a listed hop: walking from the nearest hop outwards (the last element
 * is the nearest), every element whose subject is itself a listed hop is passed over; the first other one is the caller.
 */
export function believeXfcc(
  elements: readonly XfccElement[],
  peer: string | undefined,
  hops: readonly RegExp[],
): XfccElement | undefined {
  const isHop = (name: string | undefined): boolean => name !== undefined && hops.some((hop) => hop.test(name));
  if (!isHop(peer)) return undefined;
  for (let i = elements.length - 1; i >= 0; i--) {
    const element = elements[i] as XfccElement;
    if (!isHop(element.uris.length === 1 ? element.uris[0] : undefined)) return element;
  }
  return undefined;
}

function isWorkload(uri: string): boolean {
  const parsed = parseSpiffeId(uri);
  return parsed.ok && parsed.id.path !== "";
}

/** Yields the parts; `undefined` as the last one when a quote stays open. */
function* splitOutsideQuotes(text: string, separator: string): Generator<string | undefined> {
  let start = 0;
  let quoted = false;
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (c === "\\" && quoted) i++;
    else if (c === '"') quoted = !quoted;
    else if (c === separator && !quoted) {
      yield text.slice(start, i);
      start = i + 1;
    }
  }
  yield quoted ? undefined : text.slice(start);
}

function unquote(value: string): string {
  if (value.length < 2 || !value.startsWith('"') || !value.endsWith('"')) return value;
  return value.slice(1, -1).replace(/\\(.)/g, "$1");
}
