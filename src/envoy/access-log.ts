/**
 * Reads what became of requests and connections from Envoy's access logs: from the bytes of
 * `envoy.service.accesslog.v3.StreamAccessLogsMessage`, of whose many fields an outcome needs a dozen. Fields and numbers
 * are those of `proto/envoy/data/accesslog/v3/accesslog.proto`; what is given twice counts as protobuf has it.
 */

import type { Outcome } from "../model/facts.ts";
import type { EpochMs } from "../model/units.ts";
import { isText, readText, WireCursor } from "./wire-cursor.ts";

const HTTP_METADATA = "envoy.filters.http.ext_authz";
const NETWORK_METADATA = "envoy.filters.network.ext_authz";
const DECISION_ID = "decision_id";
const GRPC_STATUS = "grpc-status";

/**
 * Outcomes of one message, in order. Entries that tell no outcome (starts, tunnels) are left out.
 * @throws {WireError | TypeError} when the bytes are no StreamAccessLogsMessage
 */
export function outcomesOf(message: Uint8Array, now: EpochMs): readonly Outcome[] {
  const cursor = new WireCursor(message);
  const outcomes: Outcome[] = [];
  let kind = 0;
  while (cursor.at < message.length) {
    const field = cursor.field();
    if (field !== HTTP_LOGS && field !== TCP_LOGS) {
      cursor.skip(field, 1);
      continue;
    }
    // Of a message that holds both, the last kind counts.
    if (kind !== field) outcomes.length = 0;
    kind = field;
    readEntries(cursor, cursor.message(2), field, now, outcomes);
  }
  return outcomes;
}

const HTTP_LOGS = 2;
const TCP_LOGS = 3;

function readEntries(cursor: WireCursor, end: number, kind: number, now: EpochMs, outcomes: Outcome[]): void {
  while (cursor.at < end) {
    const field = cursor.field();
    if (field !== 1) {
      cursor.skip(field, 2);
      continue;
    }
    const entry = new Entry(kind === HTTP_LOGS ? HTTP_METADATA : NETWORK_METADATA);
    if (kind === HTTP_LOGS) readHttpEntry(cursor, cursor.message(3), entry);
    else readTcpEntry(cursor, cursor.message(3), entry);
    const stage = stageOf(entry.type);
    if (stage !== undefined) outcomes.push(outcomeOf(entry, stage, now));
  }
}

/** What of one entry matters. */
class Entry {
  /** Key under which the filter that asked put our verdict. */
  readonly namespace: string;
  type: number = NOT_SET;
  decisionId: string | undefined;
  requestId: string | undefined;
  status: number | undefined;
  grpcStatusOfHeaders: string | undefined;
  grpcStatusOfTrailers: string | undefined;
  responseBytes: number | undefined;
  requestBytes: number | undefined;
  seconds: number | undefined;
  nanos = 0;

  constructor(namespace: string) {
    this.namespace = namespace;
  }
}

function outcomeOf(entry: Entry, stage: Outcome["stage"], now: EpochMs): Outcome {
  return {
    time: now,
    decisionId: entry.decisionId,
    requestId: entry.requestId === "" ? undefined : entry.requestId,
    status: entry.status,
    grpcStatus: grpcStatusOf(entry.grpcStatusOfTrailers ?? entry.grpcStatusOfHeaders),
    responseBytes: size(entry.responseBytes),
    requestBytes: size(entry.requestBytes),
    durationMs: entry.seconds === undefined ? undefined : entry.seconds * 1_000 + entry.nanos / 1e6,
    stage,
  };
}

/** Unsigned on the wire, read as signed; what numbers cannot hold is left out. */
function size(bytes: number | undefined): number | undefined {
  return bytes !== undefined && bytes >= 0 && bytes <= Number.MAX_SAFE_INTEGER ? bytes : undefined;
}

/** Of `AccessLogType`, those that tell an outcome. */
const NOT_SET = 0;
const TCP_PERIODIC = 2;
const TCP_CONNECTION_END = 3;
const DOWNSTREAM_PERIODIC = 5;
const DOWNSTREAM_END = 6;

function stageOf(type: number): Outcome["stage"] | undefined {
  switch (type) {
    case DOWNSTREAM_PERIODIC:
    case TCP_PERIODIC:
      return "periodic";
    case NOT_SET:
    case DOWNSTREAM_END:
    case TCP_CONNECTION_END:
      return "end";
    default:
      return undefined;
  }
}

/** The shipped configurations log `grpc-status` from the trailers, or from the headers of a trailers-only answer. */
function grpcStatusOf(text: string | undefined): number | undefined {
  return text !== undefined && /^\d{1,2}$/.test(text) ? Number(text) : undefined;
}

function readHttpEntry(cursor: WireCursor, end: number, entry: Entry): void {
  while (cursor.at < end) {
    const field = cursor.field();
    switch (field) {
      case 1:
        readCommon(cursor, cursor.message(4), entry);
        break;
      case 3:
        readRequest(cursor, cursor.message(4), entry);
        break;
      case 4:
        readResponse(cursor, cursor.message(4), entry);
        break;
      default:
        cursor.skip(field, 3);
    }
  }
}

function readTcpEntry(cursor: WireCursor, end: number, entry: Entry): void {
  while (cursor.at < end) {
    const field = cursor.field();
    switch (field) {
      case 1:
        readCommon(cursor, cursor.message(4), entry);
        break;
      case 2:
        readConnection(cursor, cursor.message(4), entry);
        break;
      default:
        cursor.skip(field, 3);
    }
  }
}

/** `ConnectionProperties`: numbers that are not sent are 0. */
function readConnection(cursor: WireCursor, end: number, entry: Entry): void {
  entry.requestBytes ??= 0;
  entry.responseBytes ??= 0;
  while (cursor.at < end) {
    const field = cursor.field();
    if (field === 1) entry.requestBytes = cursor.int64();
    else if (field === 2) entry.responseBytes = cursor.int64();
    else cursor.skip(field, 4);
  }
}

/** `AccessLogCommon`. */
function readCommon(cursor: WireCursor, end: number, entry: Entry): void {
  while (cursor.at < end) {
    const field = cursor.field();
    switch (field) {
      case 17:
        readMetadata(cursor, cursor.message(5), entry);
        break;
      case 23:
        readDuration(cursor, cursor.message(5), entry);
        break;
      case 33:
        entry.type = cursor.uint32();
        break;
      default:
        cursor.skip(field, 4);
    }
  }
}

function readDuration(cursor: WireCursor, end: number, entry: Entry): void {
  entry.seconds ??= 0;
  while (cursor.at < end) {
    const field = cursor.field();
    if (field === 1) entry.seconds = cursor.int64();
    else if (field === 2) entry.nanos = cursor.uint32() | 0;
    else cursor.skip(field, 5);
  }
}

/** `HTTPRequestProperties`. */
function readRequest(cursor: WireCursor, end: number, entry: Entry): void {
  entry.requestBytes ??= 0;
  while (cursor.at < end) {
    const field = cursor.field();
    if (field === 9) entry.requestId = readText(cursor);
    else if (field === 12) entry.requestBytes = cursor.int64();
    else cursor.skip(field, 4);
  }
}

/** `HTTPResponseProperties`. */
function readResponse(cursor: WireCursor, end: number, entry: Entry): void {
  entry.responseBytes ??= 0;
  while (cursor.at < end) {
    const field = cursor.field();
    switch (field) {
      case 1:
        entry.status = readUint32Value(cursor, cursor.message(5), entry.status ?? 0);
        break;
      case 3:
        entry.responseBytes = cursor.int64();
        break;
      case 4:
        entry.grpcStatusOfHeaders = readGrpcStatus(cursor, entry.grpcStatusOfHeaders);
        break;
      case 5:
        entry.grpcStatusOfTrailers = readGrpcStatus(cursor, entry.grpcStatusOfTrailers);
        break;
      default:
        cursor.skip(field, 4);
    }
  }
}

function readUint32Value(cursor: WireCursor, end: number, value: number): number {
  let last = value;
  while (cursor.at < end) {
    const field = cursor.field();
    if (field === 1) last = cursor.uint32();
    else cursor.skip(field, 5);
  }
  return last;
}

/** An entry of a map from text to text: its value where its key is `grpc-status`, else what was there before. */
function readGrpcStatus(cursor: WireCursor, before: string | undefined): string | undefined {
  const end = cursor.message(5);
  let fits = false;
  let value = "";
  while (cursor.at < end) {
    const field = cursor.field();
    if (field === 1) {
      cursor.text();
      fits = isText(cursor, GRPC_STATUS);
    } else if (field === 2) {
      value = readText(cursor);
    } else cursor.skip(field, 5);
  }
  return fits ? value : before;
}

/** `envoy.config.core.v3.Metadata`: of its `filter_metadata` only what our own filter put there. */
function readMetadata(cursor: WireCursor, end: number, entry: Entry): void {
  while (cursor.at < end) {
    const field = cursor.field();
    if (field !== 1) {
      cursor.skip(field, 5);
      continue;
    }
    const value = readMapEntry(cursor, entry.namespace);
    if (value === undefined) continue;
    const after = cursor.at;
    cursor.at = value.start;
    entry.decisionId = readDecisionId(cursor, value.end);
    cursor.at = after;
  }
}

/** `google.protobuf.Struct`: its field `decision_id`, where that is a text. */
function readDecisionId(cursor: WireCursor, end: number): string | undefined {
  let id: string | undefined;
  while (cursor.at < end) {
    const field = cursor.field();
    if (field !== 1) {
      cursor.skip(field, 6);
      continue;
    }
    const value = readMapEntry(cursor, DECISION_ID);
    if (value === undefined) continue;
    const after = cursor.at;
    cursor.at = value.start;
    id = readTextValue(cursor, value.end);
    cursor.at = after;
  }
  return id;
}

/** `google.protobuf.Value`: the last kind counts. */
function readTextValue(cursor: WireCursor, end: number): string | undefined {
  let text: string | undefined;
  while (cursor.at < end) {
    const field = cursor.field();
    if (field === 3) text = readText(cursor);
    else {
      if (field <= VALUE_KINDS) text = undefined;
      cursor.skip(field, 7);
    }
  }
  return text;
}

/** Fields 1 to 6 of `google.protobuf.Value` are its kinds. */
const VALUE_KINDS = 6;

/** Where the value lies of a map entry whose key this is; `undefined` for any other. Passes over the entry. */
function readMapEntry(cursor: WireCursor, key: string): { readonly start: number; readonly end: number } | undefined {
  const length = cursor.uint32();
  const entryEnd = cursor.at + length;
  let fits = key === "";
  let start = cursor.at;
  let end = cursor.at;
  while (cursor.at < entryEnd) {
    const field = cursor.field();
    if (field === 1) {
      cursor.text();
      fits = isText(cursor, key);
    } else if (field === 2) {
      cursor.span();
      ({ start, end } = cursor);
    } else cursor.skip(field, 5);
  }
  return fits ? { start, end } : undefined;
}
