/** Callers with the client helper that answers challenges by itself: over HTTP/1.1, HTTP/2 and gRPC, through TLS. */

import {
  credentials,
  InterceptingCall,
  type Interceptor,
  makeClientConstructor,
  type ServiceError,
} from "@grpc/grpc-js";
import { Agent, fetch as undiciFetch } from "undici";
import { INVENTORY, type Stock } from "../../scripts/services/inventory.ts";
import { type CallerOptions, sallyportFetch, sallyportInterceptor } from "../../src/client/client.ts";
import type { Caller } from "./clients.ts";

export interface Answered {
  /** HTTP status, or gRPC code. */
  readonly status: number;
  /** The statuses of all tries, in order. */
  readonly tries: readonly number[];
  readonly headers: Readonly<Record<string, string>>;
}

export interface AnsweringCaller {
  call(): Promise<Answered>;
  close(): Promise<void>;
}

export type Protocol = "HTTP/1.1" | "HTTP/2" | "gRPC";

export function answeringCaller(
  protocol: Protocol,
  caller: Caller,
  options: CallerOptions & { readonly agent?: string },
): AnsweringCaller {
  return protocol === "gRPC" ? overGrpc(caller, options) : overHttp(caller, options, protocol === "HTTP/2");
}

function overHttp(
  caller: Caller,
  options: CallerOptions & { readonly agent?: string },
  allowH2: boolean,
): AnsweringCaller {
  const { certificate, caPem, localAddress, ciphers } = caller;
  const dispatcher = new Agent({
    allowH2,
    ...(localAddress === undefined ? {} : { localAddress }),
    connect: {
      ca: caPem,
      servername: "localhost",
      ...(certificate === undefined ? {} : { cert: certificate.certPem, key: certificate.keyPem }),
      ...(ciphers === undefined ? {} : { ciphers }),
    },
  });
  let tries: number[] = [];
  const send = (async (input: string, init: RequestInit) => {
    const response = await undiciFetch(input, { ...(init as object), dispatcher });
    tries.push(response.status);
    return response;
  }) as unknown as typeof fetch;
  const answering = sallyportFetch({ ...options, fetch: send });
  return {
    call: async () => {
      tries = [];
      const response = await answering(`https://127.0.0.1:${caller.port}/orders/1`, {
        headers: options.agent === undefined ? {} : { "user-agent": options.agent },
      });
      await response.arrayBuffer();
      return { status: response.status, tries, headers: Object.fromEntries(response.headers) };
    },
    close: () => dispatcher.close(),
  };
}

const InventoryClient = makeClientConstructor(INVENTORY, "Inventory");
const AUTHORITY = "inventory.shop.example";

function overGrpc(caller: Caller, options: CallerOptions): AnsweringCaller {
  const { certificate } = caller;
  const channel = credentials.createSsl(
    Buffer.from(caller.caPem),
    certificate === undefined ? null : Buffer.from(certificate.keyPem),
    certificate === undefined ? null : Buffer.from(certificate.certPem),
  );
  let tries: number[] = [];
  const client = new InventoryClient(`127.0.0.1:${caller.port}`, channel, {
    "grpc.ssl_target_name_override": "localhost",
    "grpc.default_authority": AUTHORITY,
    "grpc.use_local_subchannel_pool": 1,
    // The innermost sees each try.
    interceptors: [
      sallyportInterceptor({ ...options, origin: `https://${AUTHORITY}` }),
      countingTries((code) => tries.push(code)),
    ],
  });
  return {
    call: () =>
      new Promise((resolve) => {
        tries = [];
        const done = (error: ServiceError | null, _stock?: Stock): void =>
          resolve({
            status: error?.code ?? 0,
            tries,
            headers: Object.fromEntries(
              Object.entries(error?.metadata?.getMap() ?? {}).map(([name, value]) => [name, String(value)]),
            ),
          });
        (client.Get as (...given: unknown[]) => void).call(client, { item: "apple" }, done);
      }),
    close: async () => client.close(),
  };
}

function countingTries(told: (code: number) => void): Interceptor {
  return (options, next) =>
    new InterceptingCall(next(options), {
      start: (metadata, _listener, start) =>
        start(metadata, {
          onReceiveStatus: (status, pass) => {
            told(status.code);
            pass(status);
          },
        }),
    });
}
