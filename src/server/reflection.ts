/** gRPC server reflection for operators' tools: hardly any sidecar is ever asked, so that it is loaded with the first call. */

import type { handleBidiStreamingCall, MethodDefinition } from "@grpc/grpc-js";
import type { GrpcService } from "../envoy/service.ts";
import type { ReflectionMethod } from "./reflected.ts";

/** google.rpc.Code */
const INTERNAL = 13;

const VERSIONS = ["v1", "v1alpha"] as const;

/** @param onError told when reflection cannot be loaded, or fails */
export function reflectionServices(onError: (error: unknown) => void): readonly GrpcService[] {
  let loading: Promise<ReadonlyMap<string, ReflectionMethod>> | undefined;
  const load = (): Promise<ReadonlyMap<string, ReflectionMethod>> => {
    loading ??= import("./reflected.ts").then(({ reflectionMethods }) => reflectionMethods());
    return loading;
  };
  return VERSIONS.map((version) => {
    const path = `/grpc.reflection.${version}.ServerReflection/ServerReflectionInfo`;
    const handle: handleBidiStreamingCall<Buffer, Buffer> = (call) => {
      const fail = (error: unknown): void => {
        onError(error); // ends this call; the next one tries anew
        call.emit("error", { code: INTERNAL, details: "reflection failed" });
      };
      load().then(
        (methods) => {
          const answer = methods.get(path);
          // What has come meanwhile waits: it is read from here on.
          call.on("data", (bytes: Buffer) => {
            try {
              if (answer !== undefined) call.write(answer(bytes));
            } catch (error) {
              fail(error);
            }
          });
          call.on("end", () => call.end());
        },
        (error: unknown) => {
          loading = undefined;
          fail(error);
        },
      );
    };
    return { definition: { info: { ...RAW, path } }, implementation: { info: handle } };
  });
}

const same = (bytes: Buffer): Buffer => bytes;
const RAW: Omit<MethodDefinition<Buffer, Buffer>, "path"> = {
  requestStream: true,
  responseStream: true,
  requestSerialize: same,
  requestDeserialize: same,
  responseSerialize: same,
  responseDeserialize: same,
};
