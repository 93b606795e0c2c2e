/** How commands reach a running sidecar: its private socket, or its address with the token. */

import { readFileSync } from "node:fs";
import { type Client, Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { CODE_HEADER } from "../console/api.ts";
import { LocalService } from "../gen/sallyport/local/v1/local_pb.ts";
import { BEARER_EXPECTED, isBearer } from "../model/bearer.ts";
import { OperatingError } from "../model/errors.ts";
import type { Flag, Invocation, Terminal } from "./command.ts";

const DEFAULT_API = "127.0.0.1:8181";
const TIMEOUT_MS = 10_000;

export const API_FLAGS: readonly Flag[] = [
  {
    name: "api",
    value: "ADDRESS",
    summary: `The sidecar's local API: HOST:PORT or unix:PATH; or SALLYPORT_API. Default ${DEFAULT_API}.`,
  },
  { name: "api-token-file", value: "FILE", summary: "File with the token for changes; or SALLYPORT_API_TOKEN_FILE." },
];

export type LocalClient = Client<typeof LocalService>;

export function localClient({ values }: Invocation, { environment }: Terminal): LocalClient {
  const address = values.api ?? environment.SALLYPORT_API ?? DEFAULT_API;
  const tokenFile = values["api-token-file"] ?? environment.SALLYPORT_API_TOKEN_FILE;
  const socketPath = address.startsWith("unix:") ? address.slice("unix:".length) : undefined;
  const token = tokenFile === undefined ? undefined : readToken(tokenFile);
  const authorize: Interceptor = (next) => (request) => {
    if (token !== undefined) request.header.set("authorization", `Bearer ${token}`);
    return next(request);
  };
  return createClient(
    LocalService,
    createConnectTransport({
      httpVersion: "1.1",
      baseUrl: socketPath === undefined ? `http://${address}` : "http://localhost",
      interceptors: [authorize],
      ...(socketPath === undefined ? {} : { nodeOptions: { socketPath } }),
    }),
  );
}

/** Turns a refused or failed call into an error that says what to do. */
export async function calling<Result>(call: (options: { timeoutMs: number }) => Promise<Result>): Promise<Result> {
  try {
    return await call({ timeoutMs: TIMEOUT_MS });
  } catch (error) {
    throw apiError(error);
  }
}

export function apiError(error: unknown): OperatingError {
  const connect = ConnectError.from(error);
  if (connect.code === Code.NotFound) return new OperatingError("ERR_NOT_FOUND", connect.rawMessage, { cause: error });
  if (connect.code === Code.Unauthenticated) {
    return new OperatingError("ERR_API_UNAUTHORIZED", connect.rawMessage, { cause: error });
  }
  if (connect.code === Code.InvalidArgument) {
    const code = connect.metadata.get(CODE_HEADER);
    return new OperatingError(isErrorCode(code) ? code : "ERR_USAGE", connect.rawMessage, { cause: error });
  }
  return new OperatingError(
    "ERR_API",
    `the sidecar's local API does not answer: ${connect.rawMessage}; is \`sallyport serve\` running, and --api right?`,
    { cause: error },
  );
}

/** Codes with which the local API refuses; anything else it refuses was not used rightly. */
function isErrorCode(code: string | null): code is "ERR_LOCK_INVALID" | "ERR_STATE_INVALID" {
  return code === "ERR_LOCK_INVALID" || code === "ERR_STATE_INVALID";
}

function readToken(path: string): string {
  let token: string;
  try {
    token = readFileSync(path, "utf8").trim();
  } catch (cause) {
    throw new OperatingError("ERR_USAGE", `--api-token-file ${path}: cannot be read`, { cause });
  }
  if (isBearer(token)) return token;
  throw new OperatingError("ERR_USAGE", `--api-token-file ${path}: expected ${BEARER_EXPECTED}`);
}
