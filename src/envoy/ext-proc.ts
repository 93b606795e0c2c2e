/**
 * Holds long-lived streams by Envoy's external processing: the call stays open as long as the stream, no body ever passes
 * through it, and one message ends both.
 */

import type { handleBidiStreamingCall } from "@grpc/grpc-js";
import type { Attached, OpenStream } from "../streams/open-streams.ts";
import type { GrpcService } from "./service.ts";
import { type Processing, readProcessing, writeContinue, writeEnd } from "./wire-processing.ts";

/** What Envoy's access log shows as RESPONSE_CODE_DETAILS of a stream that was ended. */
const DETAILS = "sallyport_terminated";

export interface HeldStreams {
  /** Envoy holds the stream of a decision; `end` ends it. */
  readonly attach: (decisionId: string, end: (because: string) => void) => Attached;
  readonly detach: (stream: OpenStream) => void;
}

/** `envoy.service.ext_proc.v3.ExternalProcessor`. */
export function externalProcessorService(streams: HeldStreams, onError: (error: unknown) => void): GrpcService {
  const open = new Set<() => void>();
  const handle: handleBidiStreamingCall<Processing, Buffer> = (call) => {
    let held: OpenStream | undefined;
    let ended = false;
    const finish = (): void => {
      if (!open.delete(finish)) return;
      if (held !== undefined) streams.detach(held);
      call.end();
    };
    open.add(finish);
    call.on("data", ({ part, decisionId }: Processing) => {
      try {
        if (part === "requestHeaders" && held === undefined) {
          const attached = streams.attach(decisionId, () => {
            ended = true;
            // Envoy then ends the call by itself; ending it here as well would hold up the next stream's message.
            call.write(END);
          });
          if (attached.kind === "held") held = attached.stream;
          // One answer to each message: a lock that was set meanwhile has given it.
          if (ended) return;
          // Envoy goes on without watch where the call ends; the first message still has its answer.
          call.write(CONTINUE.requestHeaders);
          if (held === undefined) finish();
          return;
        }
        if (part !== undefined) call.write(CONTINUE[part]);
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
        requestSerialize: () => Buffer.alloc(0), // servers write none
        requestDeserialize: readProcessing,
        responseSerialize: (message: Buffer) => message,
        responseDeserialize: (bytes: Buffer) => bytes,
      },
    },
    implementation: { process: handle },
    endStreams: () => {
      for (const finish of [...open]) finish();
    },
  };
}

/** Every message is encoded once: a thousand streams are ended in one go. */
const CONTINUE = writeContinue();
const END = writeEnd(DETAILS);
