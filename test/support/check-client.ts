/** Talks to a sidecar as Envoy does, in messages made for the purpose or in bytes that are none. */

import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { Client, credentials, type ServiceError } from "@grpc/grpc-js";
import {
  CheckRequestSchema,
  type CheckResponse,
  CheckResponseSchema,
} from "../../src/gen/envoy/service/auth/v3/external_auth_pb.ts";

const CHECK = "/envoy.service.auth.v3.Authorization/Check";
const raw = (bytes: Buffer): Buffer => bytes;

/** What came back: an answer, or the gRPC status of a call that failed. */
export type Checked = CheckResponse | number;

export interface CheckClient {
  /** @param timeoutMs told to the server, and kept here */
  send(bytes: Uint8Array, timeoutMs?: number): Promise<Checked>;
  /** Decision as the access log would show it; `error` for a call that failed. */
  decision(bytes: Uint8Array): Promise<string>;
  close(): void;
}

/** One connection to `address`, as Envoy keeps it. */
export function checkClient(address: string): CheckClient {
  const client = new Client(address, credentials.createInsecure(), {
    "grpc.use_local_subchannel_pool": 1,
    "grpc.max_send_message_length": -1,
  });
  const send = (bytes: Uint8Array, timeoutMs?: number): Promise<Checked> =>
    new Promise((resolve) => {
      const options = timeoutMs === undefined ? {} : { deadline: Date.now() + timeoutMs };
      const take = (error: ServiceError | null, answer?: Buffer): void =>
        resolve(answer === undefined ? (error?.code ?? -1) : fromBinary(CheckResponseSchema, answer));
      client.makeUnaryRequest(CHECK, raw, raw, Buffer.from(bytes), options, take);
    });
  return {
    send,
    decision: async (bytes) => {
      const answer = await send(bytes);
      return typeof answer === "number" ? "error" : String(answer.dynamicMetadata?.decision);
    },
    close: () => client.close(),
  };
}

/** One request by a connection of its own. */
export async function checkOnce(address: string, bytes: Uint8Array): Promise<Checked> {
  const client = checkClient(address);
  try {
    return await client.send(bytes);
  } finally {
    client.close();
  }
}

export interface CheckParts {
  /** Name in the verified certificate. */
  readonly principal?: string;
  /** PEM; sent percent-encoded, as Envoy does. */
  readonly certificate?: string;
  readonly address?: string;
  readonly port?: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly path?: string;
  readonly host?: string;
  readonly method?: string;
  /** No HTTP request at all: raw TCP. */
  readonly tcp?: boolean;
}

/** An ordinary request of `spiffe://td/web`, with what a test wants otherwise. */
export function checkBytes(parts: CheckParts = {}): Uint8Array {
  const { principal = "spiffe://td/web", certificate, address = "10.0.0.1", port = 40_000 } = parts;
  const { path = "/orders", host = "orders", method = "GET", headers = {}, tcp = false } = parts;
  const message: MessageInitShape<typeof CheckRequestSchema> = {
    attributes: {
      source: {
        principal,
        certificate: certificate === undefined ? "" : encodeURIComponent(certificate),
        address: {
          address: { case: "socketAddress", value: { address, portSpecifier: { case: "portValue", value: port } } },
        },
      },
      request: tcp ? {} : { http: { method, path, host, headers } },
    },
  };
  return toBinary(CheckRequestSchema, create(CheckRequestSchema, message));
}

/** Bytes of a field that holds a message, a text or bytes: what no encoder would let through can be written so. */
export function field(number: number, ...parts: readonly (Uint8Array | string)[]): Uint8Array {
  const content = Buffer.concat(parts.map((part) => (typeof part === "string" ? Buffer.from(part) : part)));
  return new BinaryWriter().tag(number, WireType.LengthDelimited).bytes(content).finish();
}

/** `CheckRequest.attributes`, around what a test puts into it. */
export function attributes(...parts: readonly Uint8Array[]): Uint8Array {
  return field(1, ...parts);
}

/** `AttributeContext.source` of an ordinary caller. */
export function sourceOf(principal: string | Uint8Array): Uint8Array {
  const socketAddress = field(1, field(2, "10.0.0.1"));
  return field(1, field(1, socketAddress), field(4, principal));
}

/** `AttributeContext.request.http`, around what a test puts into it. */
export function httpOf(...parts: readonly Uint8Array[]): Uint8Array {
  return field(4, field(2, ...parts));
}
