/** How `sallyport fleet` reaches a control plane. */

import { readFileSync } from "node:fs";
import { type Client, Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { CODE_HEADER } from "../control/service.ts";
import { FleetService } from "../gen/sallyport/control/v1/control_pb.ts";
import { BEARER_EXPECTED, isBearer } from "../model/bearer.ts";
import { OperatingError } from "../model/errors.ts";
import { type Flag, type Invocation, type Terminal, usage } from "./command.ts";

const DEFAULT_CONTROL = "http://127.0.0.1:9292";
/** Publishing takes in a whole bundle and writes it to disk. */
const TIMEOUT_MS = 60_000;

export const FLEET_FLAGS: readonly Flag[] = [
  {
    name: "control",
    value: "URL",
    summary: `The control plane; or SALLYPORT_FLEET_CONTROL. Default ${DEFAULT_CONTROL}.`,
  },
  { name: "token-file", value: "FILE", summary: "File with the bearer token; or SALLYPORT_FLEET_TOKEN_FILE." },
  { name: "cert", value: "FILE", summary: "Client certificate, PEM; or SALLYPORT_FLEET_CERT." },
  { name: "key", value: "FILE", summary: "Its private key, PEM; or SALLYPORT_FLEET_KEY." },
  { name: "ca", value: "FILE", summary: "Authorities of the server's certificate, PEM; or SALLYPORT_FLEET_CA." },
];

export type FleetClient = Client<typeof FleetService>;

export function fleetClient({ values }: Invocation, { environment }: Terminal): FleetClient {
  const given = (flag: string): string | undefined =>
    values[flag] ?? environment[`SALLYPORT_FLEET_${flag.toUpperCase().replaceAll("-", "_")}`];
  const baseUrl = given("control") ?? DEFAULT_CONTROL;
  if (!URL.canParse(baseUrl) || !/^https?:$/.test(new URL(baseUrl).protocol)) {
    throw usage(`fleet: --control: expected https://HOST:PORT, got ${JSON.stringify(baseUrl.slice(0, 80))}`);
  }
  const read = (flag: string): string | undefined => {
    const path = given(flag);
    if (path === undefined) return undefined;
    try {
      return readFileSync(path, "utf8");
    } catch (cause) {
      throw new OperatingError("ERR_USAGE", `--${flag} ${path}: cannot be read`, { cause });
    }
  };
  const token = read("token-file")?.trim();
  if (token !== undefined && !isBearer(token)) {
    throw usage(`fleet: --token-file ${given("token-file")}: expected ${BEARER_EXPECTED}`);
  }
  const authorize: Interceptor = (next) => (request) => {
    if (token !== undefined) request.header.set("authorization", `Bearer ${token}`);
    return next(request);
  };
  const [cert, key, ca] = [read("cert"), read("key"), read("ca")];
  return createClient(
    FleetService,
    createConnectTransport({
      httpVersion: "1.1",
      baseUrl,
      interceptors: [authorize],
      nodeOptions: {
        ...(cert === undefined ? {} : { cert }),
        ...(key === undefined ? {} : { key }),
        ...(ca === undefined ? {} : { ca }),
      },
    }),
  );
}

/** Turns a refused or failed call into an error that says what to do. */
export async function asking<Result>(call: (options: { timeoutMs: number }) => Promise<Result>): Promise<Result> {
  try {
    return await call({ timeoutMs: TIMEOUT_MS });
  } catch (error) {
    throw fleetError(error);
  }
}

export function fleetError(error: unknown): OperatingError {
  if (error instanceof OperatingError) return error;
  const { code, rawMessage, metadata } = ConnectError.from(error);
  const stable = metadata.get(CODE_HEADER);
  if (stable !== null && isCode(stable)) return new OperatingError(stable, rawMessage, { cause: error });
  if (code === Code.Unauthenticated || code === Code.PermissionDenied) {
    return new OperatingError("ERR_API_UNAUTHORIZED", rawMessage, { cause: error });
  }
  if (code === Code.ResourceExhausted) {
    const text = `the control plane takes no message as large as this (its bundle-bytes-max): ${rawMessage}`;
    return new OperatingError("ERR_BUNDLE_TOO_LARGE", text, { cause: error });
  }
  if (code === Code.InvalidArgument) return new OperatingError("ERR_USAGE", rawMessage, { cause: error });
  return new OperatingError("ERR_CONTROL", `the control plane does not answer: ${rawMessage}; is --control right?`, {
    cause: error,
  });
}

const CODES = [
  "ERR_NOT_FOUND",
  "ERR_CONTROL",
  "ERR_LOCK_INVALID",
  "ERR_STATE_UNWRITABLE",
  "ERR_STATE_INVALID",
  "ERR_BUNDLE_INVALID",
  "ERR_BUNDLE_SIGNATURE",
  "ERR_BUNDLE_ROLLBACK",
  "ERR_BUNDLE_EXPIRED",
  "ERR_BUNDLE_TOO_LARGE",
] as const;

function isCode(text: string): text is (typeof CODES)[number] {
  return (CODES as readonly string[]).includes(text);
}
