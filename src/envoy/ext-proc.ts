/**
 * Holds long-lived streams by Envoy's external processing: the call stays open as long as the stream, no body ever passes
 * through it, and one message ends both.
 */

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { handleBidiStreamingCall } from "@grpc/grpc-js";
import {
  type ProcessingRequest,
  ProcessingRequestSchema,
  type ProcessingResponse,
  ProcessingResponseSchema,
} from "../gen/envoy/service/ext_proc/v3/external_processor_pb.ts";
import { StatusCode } from "../gen/envoy/type/v3/http_status_pb.ts";
import type { Attached, OpenStream } from "../streams/open-streams.ts";
import type { GrpcService } from "./service.ts";

/** Where the verdict's own id stands in what Envoy sends. */
const VERDICT_NAMESPACE = "envoy.filters.http.ext_authz";

/** What Envoy's access log shows as RESPONSE_CODE_DETAILS of a stream that was ended. */
const DETAILS = "sallyport_terminated";

const PERMISSION_DENIED = 7;

export interface HeldStreams {
  /** Envoy holds the stream of a decision; `end` ends it. */
  readonly attach: (decisionId: string, end: (because: string) => void) => Attached;
  readonly detach: (stream: OpenStream) => void;
}

/** `envoy.service.ext_proc.v3.ExternalProcessor`. */
export function externalProcessorService(streams: HeldStreams, onError: (error: unknown) => void): GrpcService {
  const open = new Set<() => void>();
  const handle: handleBidiStreamingCall<ProcessingRequest, ProcessingResponse | Buffer> = (call) => {
    let held: OpenStream | undefined;
    let ended = false;
    const finish = (): void => {
      if (!open.delete(finish)) return;
      if (held !== undefined) streams.detach(held);
      call.end();
    };
    open.add(finish);
    call.on("data", (request: ProcessingRequest) => {
      try {
        const { request: part } = request;
        if (part.case === "requestHeaders" && held === undefined) {
          const attached = streams.attach(decisionIdOf(request), () => {
            ended = true;
            // Envoy then ends the call by itself; ending it here as well would hold up the next stream's message.
            call.write(END);
          });
          if (attached.kind === "held") held = attached.stream;
          // One answer to each message: a lock that was set meanwhile has given it.
          if (ended) return;
          // Envoy goes on without watch where the call ends; the first message still has its answer.
          call.write(CONTINUE);
          if (held === undefined) finish();
          return;
        }
        const answer = answerTo(part.case);
        if (answer !== undefined) call.write(answer);
      } catch (error) {
        onError(error); // fails open for this stream: Envoy's failure_mode_allow lets it go on unwatched
        finish();
      }
    });
    call.on("error", finish); // Envoy reset the call: the stream is over
    call.on("cancelled", finish);
    call.on("end", finish);
  };
  return {
    definition: {
      process: {
        path: "/envoy.service.ext_proc.v3.ExternalProcessor/Process",
        requestStream: true,
        responseStream: true,
        requestSerialize: (message: ProcessingRequest) => Buffer.from(toBinary(ProcessingRequestSchema, message)),
        requestDeserialize: (bytes: Buffer) => fromBinary(ProcessingRequestSchema, bytes, { readUnknownFields: false }),
        responseSerialize: (message: Buffer) => message,
        responseDeserialize: (bytes: Buffer) => fromBinary(ProcessingResponseSchema, bytes),
      },
    },
    implementation: { process: handle },
    endStreams: () => {
      for (const finish of [...open]) finish();
    },
  };
}

function decisionIdOf({ metadataContext }: ProcessingRequest): string {
  const id = metadataContext?.filterMetadata[VERDICT_NAMESPACE]?.decision_id;
  return typeof id === "string" ? id : "";
}

/** Every message is encoded once: a thousand streams are ended in one go. */
function encode(response: Parameters<typeof create<typeof ProcessingResponseSchema>>[1]): Buffer {
  return Buffer.from(toBinary(ProcessingResponseSchema, create(ProcessingResponseSchema, response)));
}

const CONTINUE = encode({ response: { case: "requestHeaders", value: {} } });
const CONTINUE_RESPONSE = encode({ response: { case: "responseHeaders", value: {} } });
const CONTINUE_REQUEST_TRAILERS = encode({ response: { case: "requestTrailers", value: {} } });
const CONTINUE_RESPONSE_TRAILERS = encode({ response: { case: "responseTrailers", value: {} } });
const END = encode({
  response: {
    case: "immediateResponse",
    value: {
      status: { code: StatusCode.Forbidden },
      grpcStatus: { status: PERMISSION_DENIED },
      details: DETAILS,
    },
  },
});

function answerTo(part: ProcessingRequest["request"]["case"]): Buffer | undefined {
  switch (part) {
    case "requestHeaders":
      return CONTINUE;
    case "responseHeaders":
      return CONTINUE_RESPONSE;
    case "requestTrailers":
      return CONTINUE_REQUEST_TRAILERS;
    case "responseTrailers":
      return CONTINUE_RESPONSE_TRAILERS;
    default:
      return undefined; // a kind that was not asked for
  }
}
