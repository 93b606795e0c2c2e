/**
 * Reads `envoy.service.auth.v3.CheckRequest` from its bytes: one walk that notes where things lie, and decodes nothing that
 * nobody asks for. Decoding whole messages by reflection takes several times as long as everything else that a decision
 * needs (`test/bench/reading.ts`).
 *
 * Fields and numbers are those of `proto/envoy/service/auth/v3/attribute_context.proto`. Fields given twice count as
 * protobuf has it: the last text, messages merged. Every text of the schema must be UTF-8, also where nobody asks for it.
 */

import type { JsonObject, JsonValue } from "@bufbuild/protobuf";
import { BytesMemo } from "../identity/bytes-memo.ts";
import { CALLERS_MAX } from "../model/limits.ts";
import { WireHeaders } from "./headers.ts";
import { demandUtf8, isText, WireCursor } from "./wire-cursor.ts";
import { readStruct } from "./wire-struct.ts";

/** Where Envoy's jwt_authn filter puts the claims of tokens that it verified. */
export const JWT_AUTHN = "envoy.filters.http.jwt_authn";

/** Part of a message's bytes; empty where the field was not sent. */
export interface Span {
  start: number;
  end: number;
}

/** `envoy.config.core.v3.Address`, of which a message holds one kind. */
export interface WireAddress {
  kind: "none" | "socket" | "pipe" | "internal";
  readonly text: Span;
  /** `undefined` where it is named, or not told. */
  port: number | undefined;
  /** Of an internal address. */
  listener: Span | undefined;
}

/** `AttributeContext.Peer`. */
export interface WirePeer {
  readonly service: Span;
  readonly principal: Span;
  /** Not yet known to be UTF-8: see {@link WireRequest.demandUtf8}. */
  readonly certificate: Span;
  readonly address: WireAddress;
}

/** `AttributeContext.HttpRequest`. */
export interface WireHttp {
  readonly method: Span;
  readonly path: Span;
  readonly host: Span;
  readonly scheme: Span;
  /** Bytes; negative where Envoy does not know. */
  size: number;
  joined: WireHeaders | undefined;
  separate: WireHeaders | undefined;
}

/** Verified claims, remembered by their bytes: those of one token come with each of its requests. */
export class ClaimsMemo {
  private readonly memo = new BytesMemo<readonly JsonObject[]>({ entriesMax: CALLERS_MAX, bytesMax: 8 * 1024 * 1024 });

  /** The claims in one filter's metadata, a Struct that begins where the cursor stands. Frozen. */
  read(cursor: WireCursor, end: number, depth: number): readonly JsonObject[] {
    const { at: start, bytes } = cursor;
    // What claims to be longer than all bytes is left to be refused.
    const known = end <= bytes.length ? this.memo.find(bytes, start, end) : undefined;
    if (known !== undefined) {
      cursor.at = end;
      return known;
    }
    const json: Record<string, JsonValue> = {};
    readStruct(cursor, end, depth, json);
    const claims = freeze(claimsOf(json));
    if (cursor.at === end) this.memo.add(bytes, start, end, claims);
    return claims;
  }
}

const NO_CLAIMS: readonly JsonObject[] = Object.freeze([]);
const NO_BYTES = Buffer.alloc(0);

/**
 * One request at a time: what it is made of is used again for the next, since making some thirty objects for each request
 * costs more than reading it.
 */
export class WireRequest {
  bytes: Buffer = NO_BYTES;
  readonly source = noPeer();
  readonly destination = noPeer();
  readonly sni: Span = noSpan();
  http: WireHttp | undefined;
  /** Claims that jwt_authn verified, by the order of the keys under which it put them. */
  claims: readonly JsonObject[] = NO_CLAIMS;
  private readonly ownHttp = noHttp();
  private readonly joined = new WireHeaders(true);
  private readonly separate = new WireHeaders(false);

  /**
   * Forgets the request before and reads another one.
   * @param bytes must stay as they are for as long as anything is asked of the request
   * @throws {WireError} when they are no CheckRequest
   */
  read(bytes: Uint8Array, claims: ClaimsMemo): void {
    this.forget();
    const cursor = new WireCursor(bytes);
    this.bytes = cursor.bytes;
    while (cursor.at < this.bytes.length) {
      const field = cursor.field();
      if (field === 1) this.readAttributes(cursor, claims);
      else cursor.skip(field, 1);
    }
    this.demandUtf8(this.destination.certificate);
  }

  /** Lets go of the message and of all that was decoded of it: credentials are among it. */
  forget(): void {
    this.bytes = NO_BYTES;
    clearPeer(this.source);
    clearPeer(this.destination);
    clear(this.sni);
    this.http = undefined;
    this.claims = NO_CLAIMS;
    this.joined.begin(NO_BYTES);
    this.separate.begin(NO_BYTES);
  }

  /** @throws {WireError} when what lies there is no UTF-8 */
  demandUtf8({ start, end }: Span): void {
    demandUtf8(this.bytes, start, end);
  }

  private readAttributes(cursor: WireCursor, claims: ClaimsMemo): void {
    const end = cursor.message(2);
    while (cursor.at < end) {
      const field = cursor.field();
      switch (field) {
        case 1:
          readPeer(cursor, this.source);
          break;
        case 2:
          readPeer(cursor, this.destination);
          break;
        case 4:
          this.readRequest(cursor);
          break;
        case 10:
          passTextEntry(cursor);
          break;
        case 11:
          this.claims = readMetadata(cursor, claims, this.claims);
          break;
        case 12:
          readTlsSession(cursor, this.sni);
          break;
        case 13:
          readMetadata(cursor, claims, NO_CLAIMS);
          break;
        default:
          cursor.skip(field, 2);
      }
    }
  }

  private readRequest(cursor: WireCursor): void {
    const end = cursor.message(3);
    while (cursor.at < end) {
      const field = cursor.field();
      switch (field) {
        case 1:
          passTime(cursor);
          break;
        case 2:
          this.http ??= cleared(this.ownHttp);
          this.readHttp(cursor, this.http);
          break;
        default:
          cursor.skip(field, 3);
      }
    }
  }

  private begun(headers: WireHeaders): WireHeaders {
    headers.begin(this.bytes);
    return headers;
  }

  private readHttp(cursor: WireCursor, http: WireHttp): void {
    const end = cursor.message(4);
    while (cursor.at < end) {
      const field = cursor.field();
      switch (field) {
        case 2:
          readText(cursor, http.method);
          break;
        case 3:
          http.joined ??= this.begun(this.joined);
          http.joined.readJoined(cursor);
          break;
        case 4:
          readText(cursor, http.path);
          break;
        case 5:
          readText(cursor, http.host);
          break;
        case 6:
          readText(cursor, http.scheme);
          break;
        case 9:
          http.size = cursor.int64();
          break;
        case 1: // id
        case 10: // protocol
          cursor.text();
          break;
        case 13:
          http.separate ??= this.begun(this.separate);
          http.separate.readSeparate(cursor, cursor.message(5), 5);
          break;
        default:
          cursor.skip(field, 4);
      }
    }
  }
}

function readPeer(cursor: WireCursor, peer: WirePeer): void {
  const end = cursor.message(3);
  while (cursor.at < end) {
    const field = cursor.field();
    switch (field) {
      case 1:
        readAddress(cursor, peer.address);
        break;
      case 2:
        readText(cursor, peer.service);
        break;
      case 3: // labels
        passTextEntry(cursor);
        break;
      case 4:
        readText(cursor, peer.principal);
        break;
      case 5: {
        const { certificate } = peer;
        // One that the next replaces is asked for by nobody.
        demandUtf8(cursor.bytes, certificate.start, certificate.end);
        cursor.span();
        certificate.start = cursor.start;
        certificate.end = cursor.end;
        break;
      }
      default:
        cursor.skip(field, 3);
    }
  }
}

function readAddress(cursor: WireCursor, address: WireAddress): void {
  const end = cursor.message(4);
  while (cursor.at < end) {
    const field = cursor.field();
    switch (field) {
      case 1:
        become(address, "socket");
        readSocketAddress(cursor, address);
        break;
      case 2:
        become(address, "pipe");
        passPipe(cursor);
        break;
      case 3:
        become(address, "internal");
        readInternalAddress(cursor, address);
        break;
      default:
        cursor.skip(field, 4);
    }
  }
}

/** Of another kind, nothing is left of what it was. */
function become(address: WireAddress, kind: WireAddress["kind"]): void {
  if (address.kind === kind) return;
  address.kind = kind;
  clear(address.text);
  address.port = undefined;
  address.listener = undefined;
}

function readSocketAddress(cursor: WireCursor, address: WireAddress): void {
  const end = cursor.message(5);
  while (cursor.at < end) {
    const field = cursor.field();
    switch (field) {
      case 2:
        readText(cursor, address.text);
        break;
      case 3:
        address.port = cursor.uint32();
        break;
      case 4: // a named port, instead of a number
        cursor.text();
        address.port = undefined;
        break;
      default:
        cursor.skip(field, 5);
    }
  }
}

function passPipe(cursor: WireCursor): void {
  const end = cursor.message(5);
  while (cursor.at < end) {
    const field = cursor.field();
    if (field === 1) cursor.text();
    else cursor.skip(field, 5);
  }
}

function readInternalAddress(cursor: WireCursor, address: WireAddress): void {
  const end = cursor.message(5);
  while (cursor.at < end) {
    const field = cursor.field();
    switch (field) {
      case 1:
        address.listener ??= noSpan();
        readText(cursor, address.listener);
        break;
      case 2: // endpoint_id
        cursor.text();
        break;
      default:
        cursor.skip(field, 5);
    }
  }
}

function readTlsSession(cursor: WireCursor, sni: Span): void {
  const end = cursor.message(3);
  while (cursor.at < end) {
    const field = cursor.field();
    if (field === 1) readText(cursor, sni);
    else cursor.skip(field, 3);
  }
}

/** `google.protobuf.Timestamp`, which nobody asks for. */
function passTime(cursor: WireCursor): void {
  const end = cursor.message(4);
  while (cursor.at < end) {
    const field = cursor.field();
    if (field === 1) cursor.int64();
    else if (field === 2) cursor.uint32();
    else cursor.skip(field, 4);
  }
}

/** Entry of a map from text to text that nobody asks for. */
function passTextEntry(cursor: WireCursor): void {
  const length = cursor.uint32();
  const end = cursor.at + length;
  while (cursor.at < end) {
    // As in every map entry, what is neither key nor value is not skipped but read as the next tag.
    const field = cursor.field();
    if (field === 1 || field === 2) cursor.text();
  }
}

/** `envoy.config.core.v3.Metadata`: its last entry of jwt_authn, else the `claims` so far. */
function readMetadata(cursor: WireCursor, memo: ClaimsMemo, claims: readonly JsonObject[]): readonly JsonObject[] {
  const end = cursor.message(3);
  let last = claims;
  while (cursor.at < end) {
    const field = cursor.field();
    if (field !== 1) {
      cursor.skip(field, 3);
      continue;
    }
    const length = cursor.uint32();
    const entryEnd = cursor.at + length;
    let isJwtAuthn = false;
    let found = NO_CLAIMS;
    while (cursor.at < entryEnd) {
      // As in every map entry, what is neither key nor value is not skipped but read as the next tag.
      switch (cursor.field()) {
        case 1:
          cursor.text();
          isJwtAuthn = isText(cursor, JWT_AUTHN);
          break;
        case 2:
          found = memo.read(cursor, cursor.message(4), 4);
          break;
      }
    }
    if (isJwtAuthn) last = found;
  }
  return last;
}

function readText(cursor: WireCursor, span: Span): void {
  cursor.text();
  span.start = cursor.start;
  span.end = cursor.end;
}

function claimsOf(metadata: JsonObject): JsonObject[] {
  const claims: JsonObject[] = [];
  for (const value of Object.values(metadata)) {
    // Only payloads have an issuer: headers of tokens and failure notes are put beside them.
    if (typeof value === "object" && value !== null && !Array.isArray(value) && typeof value.iss === "string") {
      claims.push(value);
    }
  }
  return claims;
}

/** Shared by requests: nobody may change it for the others. As deep as messages may be nested, so that recursion is fine. */
function freeze<T extends JsonValue>(value: T): T {
  if (typeof value !== "object" || value === null) return value;
  for (const part of Object.values(value)) freeze(part as JsonValue);
  return Object.freeze(value);
}

function noSpan(): Span {
  return { start: 0, end: 0 };
}

function noPeer(): WirePeer {
  return {
    service: noSpan(),
    principal: noSpan(),
    certificate: noSpan(),
    address: { kind: "none", text: noSpan(), port: undefined, listener: undefined },
  };
}

function noHttp(): WireHttp {
  return {
    method: noSpan(),
    path: noSpan(),
    host: noSpan(),
    scheme: noSpan(),
    size: 0,
    joined: undefined,
    separate: undefined,
  };
}

function clear(span: Span): void {
  span.start = 0;
  span.end = 0;
}

function clearPeer({ service, principal, certificate, address }: WirePeer): void {
  clear(service);
  clear(principal);
  clear(certificate);
  become(address, "none");
}

function cleared(http: WireHttp): WireHttp {
  clear(http.method);
  clear(http.path);
  clear(http.host);
  clear(http.scheme);
  http.size = 0;
  http.joined = undefined;
  http.separate = undefined;
  return http;
}
