/** Messages of Envoy's external processing, by bytes (envoy/service/ext_proc/v3/external_processor.proto). */

import type { JsonValue } from "@bufbuild/protobuf";
import { readText, WireCursor } from "./wire-cursor.ts";
import { readStruct } from "./wire-struct.ts";
import { WireWriter } from "./wire-writer.ts";

/** Where the verdict's own id stands in what Envoy sends. */
const VERDICT_NAMESPACE = "envoy.filters.http.ext_authz";

export type Part = "requestHeaders" | "responseHeaders" | "requestTrailers" | "responseTrailers";

/** What is read of a ProcessingRequest. */
export interface Processing {
  /** `undefined`: a kind that was not asked for. */
  readonly part: Part | undefined;
  /** Id of the verdict on the request; empty where Envoy tells none. */
  readonly decisionId: string;
}

/** Fields of a ProcessingRequest that are read; those of `request` that were not asked for: 4 and 5, bodies. */
const PARTS = new Map<number, Part | undefined>([
  [2, "requestHeaders"],
  [3, "responseHeaders"],
  [4, undefined],
  [5, undefined],
  [6, "requestTrailers"],
  [7, "responseTrailers"],
]);
const METADATA_CONTEXT = 8;

/**
 * Reads a `ProcessingRequest`; headers and trailers are passed over.
 * @throws {WireError} when the bytes are none
 */
export function readProcessing(bytes: Uint8Array): Processing {
  const cursor = new WireCursor(bytes);
  let part: Part | undefined;
  let decisionId = "";
  while (cursor.at < bytes.length) {
    const field = cursor.field();
    if (field === METADATA_CONTEXT) {
      decisionId = readMetadata(cursor, decisionId);
      continue;
    }
    if (PARTS.has(field)) part = PARTS.get(field); // of a oneof, the last counts
    cursor.skip(field, 1);
  }
  return { part, decisionId };
}

/** `envoy.config.core.v3.Metadata`: the id in our filter's last entry, else the one `known` so far. */
function readMetadata(cursor: WireCursor, known: string): string {
  const end = cursor.message(2);
  let decisionId = known;
  while (cursor.at < end) {
    const field = cursor.field();
    if (field !== 1) {
      cursor.skip(field, 2);
      continue;
    }
    const { filter, values } = readFilter(cursor);
    if (filter !== VERDICT_NAMESPACE) continue;
    const id = values.decision_id;
    decisionId = typeof id === "string" ? id : "";
  }
  return decisionId;
}

/** One entry of `filter_metadata`. */
function readFilter(cursor: WireCursor): {
  readonly filter: string;
  readonly values: Readonly<Record<string, JsonValue>>;
} {
  const end = cursor.message(3);
  let filter = "";
  const values: Record<string, JsonValue> = {};
  while (cursor.at < end) {
    const field = cursor.field();
    if (field === 1) filter = readText(cursor);
    else if (field === 2) readStruct(cursor, cursor.message(4), 4, values);
    else cursor.skip(field, 3);
  }
  return { filter, values };
}

/** Tags of fields that hold messages or text. */
const TAG = {
  response: { requestHeaders: 0x0a, responseHeaders: 0x12, requestTrailers: 0x2a, responseTrailers: 0x32, end: 0x3a },
  end: { status: 0x0a, grpcStatus: 0x22, details: 0x2a },
  code: 0x08,
} as const;

const HTTP_FORBIDDEN = 403;
/** google.rpc.Code */
const PERMISSION_DENIED = 7;

const writer = new WireWriter();

/** The `ProcessingResponse` that lets each part pass as it is. */
export function writeContinue(): Readonly<Record<Part, Buffer>> {
  const empty = (tag: number): Buffer => Buffer.of(tag, 0);
  const { response } = TAG;
  return {
    requestHeaders: empty(response.requestHeaders),
    responseHeaders: empty(response.responseHeaders),
    requestTrailers: empty(response.requestTrailers),
    responseTrailers: empty(response.responseTrailers),
  };
}

/**
 * The `ProcessingResponse` that ends a stream: an `ImmediateResponse`.
 * @param details what access logs show as RESPONSE_CODE_DETAILS
 */
export function writeEnd(details: string): Buffer {
  writer.begin();
  writer.text(TAG.end.details, details);
  writeCode(TAG.end.grpcStatus, PERMISSION_DENIED);
  writeCode(TAG.end.status, HTTP_FORBIDDEN);
  writer.close(TAG.response.end, 0);
  return writer.finish();
}

function writeCode(tag: number, code: number): void {
  const before = writer.written;
  writer.varint(code);
  writer.byte(TAG.code);
  writer.close(tag, before);
}
