/** What is known of one request before anything is judged: plain values, one shape for HTTP, gRPC and raw TCP. */

import type { PresentedFacts } from "./identity.ts";
import type { EpochMs } from "./units.ts";

export type Protocol = "http" | "grpc" | "tcp";

/** TLS facts that this Envoy itself set; `undefined` means that Envoy did not tell. */
export interface TlsFacts {
  readonly ja3: string | undefined;
  readonly ja4: string | undefined;
  readonly version: string | undefined;
  readonly sni: string | undefined;
}

export interface RequestFacts {
  readonly time: EpochMs;
  readonly protocol: Protocol;
  /** `x-request-id`, the key that access logs share. */
  readonly requestId: string | undefined;
  /** Envoy's connection id, as the shipped configuration sets it. */
  readonly connectionId: string | undefined;
  /** Canonical text of the peer's address (IPv4, or IPv6 without zone), after Envoy's client-address logic. */
  readonly sourceAddress: string | undefined;
  readonly sourcePort: number | undefined;
  /** The service asked for: host without port, lower case; SNI or listener for raw TCP. */
  readonly destination: string;
  /** HTTP method in upper case; `CONNECT` for raw TCP. */
  readonly method: string;
  /** Path without query and fragment; `/pkg.Service/Method` for gRPC; empty for raw TCP. At most 2,048 characters. */
  readonly path: string;
  readonly userAgent: string | undefined;
  readonly tls: TlsFacts;
  readonly requestBytes: number | undefined;
  /** Set where the request itself says that it will last: a WebSocket, server-sent events, a TCP connection. */
  readonly lasting?: true | undefined;
  readonly presented: PresentedFacts;
}

/** What became of a request, known only afterwards. */
export interface Outcome {
  readonly time: EpochMs;
  readonly decisionId: string | undefined;
  readonly requestId: string | undefined;
  /** HTTP status; `undefined` for raw TCP. */
  readonly status: number | undefined;
  /** gRPC status code, when there was one. */
  readonly grpcStatus: number | undefined;
  /** Bytes of the response body, or bytes sent to a TCP client. Totals so far, not deltas. */
  readonly responseBytes: number | undefined;
  readonly requestBytes: number | undefined;
  readonly durationMs: number | undefined;
  /** `periodic` for a stream that is still open: totals will grow. */
  readonly stage: "periodic" | "end";
}
