/** Judges a request's header list: well formed by RFC 9113 section 8, then a call by gRPC over HTTP/2. */

import { parseGrpcTimeout } from "./grpc-timeout.ts";
import type { HeaderList } from "./hpack-decoder.ts";
import type { HeaderField } from "./hpack-table.ts";
import { GrpcCode, type UnaryMethod } from "./unary.ts";

/** What a request's headers say. The same list always gives an equal one, so that it may be kept and shared. */
export type RequestHead =
  /** A stream error PROTOCOL_ERROR. */
  | { readonly kind: "malformed" }
  /** Well formed, but no gRPC: answered by an HTTP status once the request has ended. */
  | {
      readonly kind: "http";
      readonly status: number;
      readonly contentLength: number | undefined;
      readonly head: boolean;
    }
  /** A gRPC call that fails whatever its message: answered at once. */
  | { readonly kind: "failed"; readonly code: number; readonly message: string }
  | {
      readonly kind: "call";
      readonly method: UnaryMethod;
      readonly timeoutMs: number | undefined;
      readonly contentLength: number | undefined;
    };

const MALFORMED: RequestHead = { kind: "malformed" };

/** A token in lower case (RFC 9113 section 8.2.1, RFC 9110 section 5.6.2). */
const NAME = /^[!#$%&'*+\-.^_`|~0-9a-z]+$/;

/** No NUL, CR or LF anywhere, no blank at either end (RFC 9113 section 8.2.1). */
const BAD_VALUE = /[\0\r\n]|^[ \t]|[ \t]$/;

/** `application/grpc`, with a subtype of ours or parameters. */
const GRPC_CONTENT_TYPE = /^application\/grpc(?:\+proto)?(?:[ \t]*;.*)?$/i;

/** Belong to one HTTP/1 connection (RFC 9113 section 8.2.2). */
const CONNECTION_FIELDS = new Set(["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"]);

/** @param methods by path */
export function readRequestHead(list: HeaderList, methods: ReadonlyMap<string, UnaryMethod>): RequestHead {
  const pseudo = new Map<string, string>();
  let contentType: string | undefined;
  let contentLength: number | undefined;
  let timeout: string | undefined;
  let encoding: string | undefined;
  let regular = false;
  for (const { name, value } of list.fields) {
    if (BAD_VALUE.test(value)) return MALFORMED;
    if (name.startsWith(":")) {
      if (regular || pseudo.has(name) || !REQUEST_PSEUDO.has(name)) return MALFORMED;
      pseudo.set(name, value);
      continue;
    }
    regular = true;
    if (!isRegularField(name, value)) return MALFORMED;
    if (name === "content-type") contentType ??= value;
    else if (name === "grpc-timeout") timeout ??= value;
    else if (name === "grpc-encoding") encoding ??= value;
    else if (name === "content-length") {
      if (!/^\d{1,15}$/.test(value)) return MALFORMED;
      if (contentLength !== undefined && contentLength !== Number(value)) return MALFORMED;
      contentLength = Number(value);
    }
  }
  const grpc = contentType !== undefined && GRPC_CONTENT_TYPE.test(contentType);
  const head = pseudo.get(":method") === "HEAD";
  if (list.tooLarge) {
    if (grpc) return { kind: "failed", code: GrpcCode.resourceExhausted, message: "request headers are too large" };
    return { kind: "http", status: 431, contentLength, head };
  }
  if (!arePseudoFieldsWhole(pseudo)) return MALFORMED;
  if (pseudo.get(":method") !== "POST") return { kind: "http", status: 405, contentLength, head };
  if (!grpc) return { kind: "http", status: 415, contentLength, head };
  const method = methods.get(pseudo.get(":path") as string);
  if (method === undefined) return { kind: "failed", code: GrpcCode.unimplemented, message: "unknown method" };
  if (encoding !== undefined && encoding !== "identity") {
    return { kind: "failed", code: GrpcCode.unimplemented, message: "compressed messages are not taken" };
  }
  if (timeout === undefined) return { kind: "call", method, timeoutMs: undefined, contentLength };
  const timeoutMs = parseGrpcTimeout(timeout);
  if (timeoutMs === undefined) return { kind: "failed", code: GrpcCode.internal, message: "malformed grpc-timeout" };
  return { kind: "call", method, timeoutMs, contentLength };
}

/** Whether fields that came after a body may do so: regular ones only (RFC 9113 section 8.1). */
export function areTrailers(fields: readonly HeaderField[]): boolean {
  return fields.every(({ name, value }) => !BAD_VALUE.test(value) && isRegularField(name, value));
}

const REQUEST_PSEUDO = new Set([":method", ":scheme", ":authority", ":path"]);

function isRegularField(name: string, value: string): boolean {
  if (!NAME.test(name) || CONNECTION_FIELDS.has(name)) return false;
  return name !== "te" || value.toLowerCase() === "trailers";
}

/** RFC 9113 sections 8.3.1 and, for CONNECT, 8.5. */
function arePseudoFieldsWhole(pseudo: ReadonlyMap<string, string>): boolean {
  const method = pseudo.get(":method");
  const path = pseudo.get(":path");
  if (method === undefined || method === "") return false;
  if (method === "CONNECT") return pseudo.has(":authority") && !pseudo.has(":scheme") && path === undefined;
  if (pseudo.get(":scheme") === undefined || path === undefined) return false;
  return path.startsWith("/") || (path === "*" && method === "OPTIONS");
}
