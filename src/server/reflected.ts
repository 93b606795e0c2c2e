/** What reflection answers: descriptors of the services that Envoy calls. */

import { type DescFile, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import type { Server, ServiceDefinition, UntypedServiceImplementation } from "@grpc/grpc-js";
import type { PackageDefinition } from "@grpc/proto-loader";
import { ReflectionService } from "@grpc/reflection";
import { file_envoy_service_accesslog_v3_als } from "../gen/envoy/service/accesslog/v3/als_pb.ts";
import { file_envoy_service_auth_v3_external_auth } from "../gen/envoy/service/auth/v3/external_auth_pb.ts";

/** Answers one ServerReflectionRequest with a ServerReflectionResponse; throws when it is none. */
export type ReflectionMethod = (request: Buffer) => Buffer;

/** By path. */
export function reflectionMethods(): ReadonlyMap<string, ReflectionMethod> {
  const methods = new Map<string, ReflectionMethod>();
  // The package knows one way to be had: it adds itself to a server.
  const server = {
    addService: (definition: ServiceDefinition, implementation: UntypedServiceImplementation) => {
      for (const [name, method] of Object.entries(definition)) {
        methods.set(method.path, (bytes) => {
          const answers: Buffer[] = [];
          let take: (request: unknown) => void = () => {};
          const call = {
            on: (event: string, listener: (request: unknown) => void) => {
              if (event === "data") take = listener;
            },
            write: (response: unknown) => answers.push(method.responseSerialize(response)),
          };
          (implementation[name] as unknown as (call: unknown) => void)(call);
          take(method.requestDeserialize(bytes));
          const [answer] = answers;
          if (answer === undefined) throw new RangeError(`${method.path} gave no answer`);
          return answer;
        });
      }
    },
  };
  new ReflectionService(reflected()).addToServer(server as unknown as Server);
  return methods;
}

/** Descriptors of what is served, in the form that the reflection package reads. */
function reflected(): PackageDefinition {
  const files = new Map<string, Buffer>();
  const add = (file: DescFile): void => {
    if (files.has(file.proto.name)) return;
    for (const dependency of file.dependencies) add(dependency);
    files.set(file.proto.name, Buffer.from(toBinary(FileDescriptorProtoSchema, file.proto)));
  };
  for (const file of [file_envoy_service_auth_v3_external_auth, file_envoy_service_accesslog_v3_als]) add(file);
  return {
    sallyport: { format: "Protocol Buffer 3 DescriptorProto", type: {}, fileDescriptorProtos: [...files.values()] },
  } as unknown as PackageDefinition;
}
