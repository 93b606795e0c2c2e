/** Services that put challenges, over HTTP and gRPC, with the very rules that the sidecar answers by. */

import { randomBytes } from "node:crypto";
import { createServer, type IncomingHttpHeaders, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import {
  Metadata,
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type ServerUnaryCall,
  type ServerWritableStream,
  type ServiceDefinition,
  type sendUnaryData,
} from "@grpc/grpc-js";
import type { BoundKey } from "../../src/challenge/bound.ts";
import { judgeDigest } from "../../src/challenge/content-digest.ts";
import { Nonces } from "../../src/challenge/nonce.ts";
import { parseJwk } from "../../src/challenge/proof-key.ts";
import { stepUpChallenge } from "../../src/challenge/www-authenticate.ts";
import { Proofs } from "../../src/envoy/proofs.ts";

/** `none` lets everybody in; `dpop_then_step_up` asks for both, one after the other; `never` refuses whatever comes. */
export type Demand =
  | "none"
  | "dpop"
  | "signature"
  | "signature_with_digest"
  | "step_up"
  | "dpop_then_step_up"
  | "never";

export interface Guard {
  demand: Demand;
  /** Tokens that count as fresh. */
  readonly freshTokens: Set<string>;
  /** The keys that count. */
  keys: readonly BoundKey[];
  readonly proofs: Proofs;
  /** What came of each request, in order. */
  readonly outcomes: string[];
}

export function createGuard(demand: Demand, jwk: unknown): Guard {
  const parsed = parseJwk(jwk);
  if (!parsed.ok) throw new Error(parsed.why);
  const key = parsed.key;
  const startedAt = Date.now() - 10_000;
  let first = true;
  const proofs = new Proofs({
    nonces: new Nonces(randomBytes(32)),
    // Proofs from before the start are asked for anew; these tests are about other things.
    now: () => {
      const now = first ? startedAt : Date.now();
      first = false;
      return now;
    },
    randomBytes,
    key: randomBytes(32),
  });
  return {
    demand,
    freshTokens: new Set(),
    keys: [{ by: "registered", thumbprint: key.thumbprint, key }],
    proofs,
    outcomes: [],
  };
}

interface Asked {
  readonly method: string;
  readonly origin: string;
  readonly target: string;
  values(name: string): readonly string[];
  readonly body: Uint8Array;
}

/** Headers of the refusal, or `undefined` when the request may pass. */
function judge(guard: Guard, asked: Asked): Readonly<Record<string, string>> | undefined {
  const refusal = refusalOf(guard, asked);
  guard.outcomes.push(refusal === undefined ? "passed" : Object.keys(refusal).sort().join());
  return refusal;
}

function refusalOf(guard: Guard, asked: Asked): Readonly<Record<string, string>> | undefined {
  const { demand, proofs, keys } = guard;
  const [scheme, token] = (asked.values("authorization")[0] ?? "").split(" ");
  const stepUp = (): Readonly<Record<string, string>> | undefined =>
    guard.freshTokens.has(token ?? "")
      ? undefined
      : {
          "www-authenticate": stepUpChallenge(
            { acrValues: ["workload"], maxAgeSeconds: 0 },
            scheme === "DPoP" ? "DPoP" : "Bearer",
          ),
        };
  const dpop = (): Readonly<Record<string, string>> | undefined => {
    const request = {
      proofs: asked.values("dpop"),
      method: asked.method,
      origins: [asked.origin],
      path: asked.target,
      accessToken: token,
    };
    const outcome = proofs.dpop(request, keys, true);
    if (outcome.kind === "valid") return undefined;
    return outcome.kind === "invalid" ? { "x-why": outcome.why } : proofs.dpopChallenge();
  };
  switch (demand) {
    case "none":
      return undefined;
    case "never":
      return {
        ...proofs.dpopChallenge(),
        ...proofs.signatureChallenge([]),
        "www-authenticate": `${proofs.dpopChallenge()["www-authenticate"]}, ${stepUpChallenge({ acrValues: [], maxAgeSeconds: 0 })}`,
      };
    case "step_up":
      return stepUp();
    case "dpop":
      return dpop();
    case "dpop_then_step_up":
      return dpop() ?? stepUp();
    case "signature":
    case "signature_with_digest": {
      const fields = demand === "signature" ? [] : ["content-digest"];
      const url = new URL(asked.origin);
      const outcome = proofs.signature(
        {
          method: asked.method,
          scheme: url.protocol.slice(0, -1),
          authority: url.host,
          target: asked.target,
          values: asked.values,
        },
        keys,
        fields,
      );
      if (outcome.kind === "invalid") return { "x-why": outcome.why };
      if (outcome.kind !== "valid") return proofs.signatureChallenge(fields);
      const digest = asked.values("content-digest")[0];
      if (fields.length > 0 && judgeDigest(digest ?? "", asked.body) !== "matched") return { "x-why": "digest" };
      return undefined;
    }
  }
}

/** Echoes bodies; `GET /old` leads elsewhere. */
export async function challengingHttp(guard: Guard): Promise<{ readonly origin: string; close(): Promise<void> }> {
  const server = createServer((request, response) => {
    void bodyOf(request).then((body) => {
      const { port } = server.address() as AddressInfo;
      const refusal = judge(guard, {
        method: request.method ?? "",
        origin: `http://127.0.0.1:${port}`,
        target: request.url ?? "",
        values: (name) => valuesOf(request.headersDistinct, name),
        body,
      });
      const nonce = guard.proofs.dpopChallenge()["dpop-nonce"] as string;
      if (refusal !== undefined) response.writeHead(401, refusal).end("refused");
      else response.writeHead(200, { "dpop-nonce": nonce }).end(body);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    origin: `http://127.0.0.1:${port}`,
    close: () => {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
}

function valuesOf(headers: IncomingHttpHeaders | NodeJS.Dict<string[]>, name: string): readonly string[] {
  const value = headers[name];
  return value === undefined ? [] : [value].flat();
}

async function bodyOf(request: IncomingMessage): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of request) chunks.push(chunk as Uint8Array);
  return Buffer.concat(chunks);
}

const text = {
  requestSerialize: (value: string) => Buffer.from(value),
  requestDeserialize: (bytes: Buffer) => bytes.toString(),
  responseSerialize: (value: string) => Buffer.from(value),
  responseDeserialize: (bytes: Buffer) => bytes.toString(),
};

/** Texts in, texts out. */
export const ECHO = {
  Unary: { path: "/test.Echo/Unary", requestStream: false, responseStream: false, ...text },
  Down: { path: "/test.Echo/Down", requestStream: false, responseStream: true, ...text },
  Both: { path: "/test.Echo/Both", requestStream: true, responseStream: true, ...text },
} satisfies ServiceDefinition;

const ORIGIN = "https://echo.example";
const UNAUTHENTICATED = 16;

export async function challengingGrpc(
  guard: Guard,
): Promise<{ readonly address: string; readonly origin: string; close(): void }> {
  const refuse = (call: { readonly metadata: Metadata }, path: string) => {
    const refusal = judge(guard, {
      method: "POST",
      origin: ORIGIN,
      target: path,
      values: (name) => call.metadata.get(name).map(String),
      body: new Uint8Array(),
    });
    if (refusal === undefined) return undefined;
    const metadata = new Metadata();
    for (const [name, value] of Object.entries(refusal)) metadata.set(name, value);
    return { code: UNAUTHENTICATED, details: "refused", metadata };
  };
  const server = new Server();
  server.addService(ECHO, {
    Unary: (call: ServerUnaryCall<string, string>, callback: sendUnaryData<string>) => {
      const refusal = refuse(call, ECHO.Unary.path);
      if (refusal === undefined) callback(null, call.request);
      else callback(refusal);
    },
    Down: (call: ServerWritableStream<string, string>) => {
      const refusal = refuse(call, ECHO.Down.path);
      if (refusal !== undefined) return call.emit("error", refusal);
      for (const part of String(call.request).split(" ")) call.write(part);
      return call.end();
    },
    Both: (call: ServerDuplexStream<string, string>) => {
      const refusal = refuse(call, ECHO.Both.path);
      if (refusal !== undefined) return call.emit("error", refusal);
      call.on("data", (message: string) => call.write(message));
      return call.on("end", () => call.end());
    },
  });
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    );
  });
  return { address: `127.0.0.1:${port}`, origin: ORIGIN, close: () => server.forceShutdown() };
}
