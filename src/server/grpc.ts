/** The gRPC listeners: Check calls on one address; access logs, health and reflection on another. */

import { chmodSync, rmSync, statSync } from "node:fs";
import { type DescFile, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import { Server, ServerCredentials } from "@grpc/grpc-js";
import type { PackageDefinition } from "@grpc/proto-loader";
import { ReflectionService } from "@grpc/reflection";
import { HealthImplementation } from "grpc-health-check";
import type { GrpcService } from "../envoy/service.ts";
import { file_envoy_service_accesslog_v3_als } from "../gen/envoy/service/accesslog/v3/als_pb.ts";
import { file_envoy_service_auth_v3_external_auth } from "../gen/envoy/service/auth/v3/external_auth_pb.ts";
import { OperatingError } from "../model/errors.ts";

/** Envoy's largest CheckRequest: its headers (60 KiB) twice encoded, a certificate, and what body a filter adds. */
const MESSAGE_BYTES_MAX = 4 * 1024 * 1024;

/** One listener on grpc-js; its services can be told apart by what serves them, and stopped on their own. */
export class GrpcListener {
  readonly address: string;
  private readonly server = new Server({
    "grpc.max_receive_message_length": MESSAGE_BYTES_MAX,
    "grpc.max_concurrent_streams": 8192,
  });
  private readonly health: HealthImplementation;
  private readonly services: readonly GrpcService[];
  private bound = "";

  /** @param address `HOST:PORT` or `unix:PATH` */
  constructor(address: string, services: readonly GrpcService[], options: { readonly reflection: boolean }) {
    this.address = address;
    this.services = services;
    this.health = new HealthImplementation({ "": "NOT_SERVING", [AUTHORIZATION]: "NOT_SERVING" });
    for (const { definition, implementation } of services) this.server.addService(definition, implementation);
    this.health.addToServer(this.server);
    if (options.reflection) new ReflectionService(reflected()).addToServer(this.server);
  }

  /** The address in use, with the real port where 0 was asked for. */
  get boundAddress(): string {
    return this.bound;
  }

  /** @throws {OperatingError} ERR_LISTEN */
  async listen(): Promise<void> {
    if (this.address.startsWith("unix:")) removeDeadSocket(this.address.slice("unix:".length));
    const port = await new Promise<number>((resolve, reject) => {
      this.server.bindAsync(this.address, ServerCredentials.createInsecure(), (error, bound) => {
        if (error === null) resolve(bound);
        else
          reject(
            new OperatingError("ERR_LISTEN", `cannot listen on ${this.address}: ${error.message}`, { cause: error }),
          );
      });
    });
    this.bound = this.address.startsWith("unix:") ? this.address : this.address.replace(/:\d+$/, `:${port}`);
    // Envoy may run as another user of the same pod.
    if (this.address.startsWith("unix:")) chmodSync(this.address.slice("unix:".length), 0o666);
  }

  setServing(serving: boolean): void {
    const status = serving ? "SERVING" : "NOT_SERVING";
    this.health.setStatus("", status);
    this.health.setStatus(AUTHORIZATION, status);
  }

  /** Takes no new calls, ends endless ones, and waits for the others; cuts what is left after `timeoutMs`. */
  async close(timeoutMs: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(() => {
        this.server.forceShutdown();
        resolve();
      }, timeoutMs);
      this.server.tryShutdown(() => {
        clearTimeout(timer);
        resolve();
      });
      for (const { endStreams } of this.services) endStreams?.();
    });
  }
}

/** Name of the service for health checks. */
export const AUTHORIZATION = "envoy.service.auth.v3.Authorization";

/** A crashed process leaves its socket behind; anything that is no socket is left alone and fails the bind. */
export function removeDeadSocket(path: string): void {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found?.isSocket() === true) rmSync(path);
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
