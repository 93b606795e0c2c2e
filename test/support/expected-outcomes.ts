/** What became of requests and connections, read from decoded messages: what reading from bytes is held to. */

import type { Duration } from "@bufbuild/protobuf/wkt";
import {
  type AccessLogCommon,
  AccessLogType,
  type HTTPAccessLogEntry,
  type TCPAccessLogEntry,
} from "../../src/gen/envoy/data/accesslog/v3/accesslog_pb.ts";
import type { StreamAccessLogsMessage } from "../../src/gen/envoy/service/accesslog/v3/als_pb.ts";
import type { Outcome } from "../../src/model/facts.ts";
import type { EpochMs } from "../../src/model/units.ts";

const HTTP_METADATA = "envoy.filters.http.ext_authz";
const NETWORK_METADATA = "envoy.filters.network.ext_authz";

/** Outcomes of one message, in order. Entries that tell no outcome (starts, tunnels) are left out. */
export function expectedOutcomes(message: StreamAccessLogsMessage, now: EpochMs): readonly Outcome[] {
  switch (message.logEntries.case) {
    case "httpLogs":
      return message.logEntries.value.logEntry.flatMap((entry) => httpOutcome(entry, now));
    case "tcpLogs":
      return message.logEntries.value.logEntry.flatMap((entry) => tcpOutcome(entry, now));
    default:
      return [];
  }
}

function httpOutcome(entry: HTTPAccessLogEntry, now: EpochMs): readonly Outcome[] {
  const common = entry.commonProperties;
  const stage = stageOf(common?.accessLogType);
  if (stage === undefined) return [];
  const requestId = entry.request?.requestId;
  return [
    {
      time: now,
      decisionId: decisionIdOf(common, HTTP_METADATA),
      requestId: requestId === undefined || requestId === "" ? undefined : requestId,
      status: entry.response?.responseCode,
      grpcStatus: grpcStatusOf(entry),
      responseBytes: size(entry.response?.responseBodyBytes),
      requestBytes: size(entry.request?.requestBodyBytes),
      durationMs: milliseconds(common?.duration),
      stage,
    },
  ];
}

function tcpOutcome(entry: TCPAccessLogEntry, now: EpochMs): readonly Outcome[] {
  const common = entry.commonProperties;
  const stage = stageOf(common?.accessLogType);
  if (stage === undefined) return [];
  return [
    {
      time: now,
      decisionId: decisionIdOf(common, NETWORK_METADATA),
      requestId: undefined,
      status: undefined,
      grpcStatus: undefined,
      responseBytes: size(entry.connectionProperties?.sentBytes),
      requestBytes: size(entry.connectionProperties?.receivedBytes),
      durationMs: milliseconds(common?.duration),
      stage,
    },
  ];
}

function stageOf(type: AccessLogType | undefined): Outcome["stage"] | undefined {
  switch (type) {
    case AccessLogType.DownstreamPeriodic:
    case AccessLogType.TcpPeriodic:
      return "periodic";
    case undefined:
    case AccessLogType.NotSet:
    case AccessLogType.DownstreamEnd:
    case AccessLogType.TcpConnectionEnd:
      return "end";
    default:
      return undefined;
  }
}

function decisionIdOf(common: AccessLogCommon | undefined, namespace: string): string | undefined {
  const id = common?.metadata?.filterMetadata[namespace]?.decision_id;
  return typeof id === "string" ? id : undefined;
}

/** The shipped configurations log `grpc-status` from the trailers, or from the headers of a trailers-only answer. */
function grpcStatusOf({ response }: HTTPAccessLogEntry): number | undefined {
  const text = response?.responseTrailers["grpc-status"] ?? response?.responseHeaders["grpc-status"];
  return text !== undefined && /^\d{1,2}$/.test(text) ? Number(text) : undefined;
}

function size(bytes: bigint | undefined): number | undefined {
  return bytes === undefined || bytes > BigInt(Number.MAX_SAFE_INTEGER) ? undefined : Number(bytes);
}

function milliseconds(duration: Duration | undefined): number | undefined {
  return duration === undefined ? undefined : Number(duration.seconds) * 1_000 + duration.nanos / 1e6;
}
