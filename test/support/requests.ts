/** Requests and policies for tests of the line: ordinary ones, to be changed where a test needs it. */

import { defaultPolicy } from "../../src/bundle/default-policy.ts";
import type { RequestFacts } from "../../src/model/facts.ts";
import type { VerifiedToken } from "../../src/model/identity.ts";
import type { Policy } from "../../src/model/policy.ts";
import { toEpochMs } from "../../src/model/units.ts";

/** Noon of a Monday. */
export const NOON = Date.parse("2026-03-02T12:00:00Z");

export const POLICY: Policy = defaultPolicy();

export interface RequestOptions {
  readonly at?: number;
  readonly principal?: string;
  readonly credential?: string;
  readonly address?: string | undefined;
  readonly agent?: string;
  readonly ja4?: string;
  readonly method?: string;
  readonly path?: string;
  readonly host?: string;
  readonly protocol?: RequestFacts["protocol"];
  readonly requestId?: string;
  /** When the token was issued; long ago by default. */
  readonly issuedAt?: number;
  readonly token?: Partial<VerifiedToken>;
}

const GO_JA4 = "t13d1312h2_f57a46bbacb6_ab7e3b40a677";

/** A request of `billing`, with a verified token of its own SPIFFE ID. */
export function request(options: RequestOptions = {}): RequestFacts {
  const principal = options.principal ?? "spiffe://td/billing";
  const at = options.at ?? NOON;
  return {
    time: toEpochMs(at),
    protocol: options.protocol ?? "http",
    requestId: options.requestId,
    connectionId: undefined,
    sourceAddress: "address" in options ? options.address : "10.1.0.5",
    sourcePort: 40_000,
    destination: options.host ?? "orders.shop.example",
    method: options.method ?? "GET",
    path: options.path ?? "/orders",
    userAgent: options.agent ?? "billing/1.0 Go-http-client/2.0",
    tls: { ja3: undefined, ja4: options.ja4 ?? GO_JA4, version: undefined, sni: undefined },
    requestBytes: undefined,
    presented: {
      certificate: undefined,
      peerSpiffeId: principal,
      peerNameInvalid: undefined,
      token: {
        kind: "verified",
        id: `token:${options.credential ?? `of ${principal}`}`,
        issuer: "https://issuer",
        subject: principal,
        issuedAt: toEpochMs(options.issuedAt ?? at - 600_000),
        expiresAt: toEpochMs(at + 600_000),
        authenticatedAt: undefined,
        acr: undefined,
        boundCertificate: undefined,
        boundKey: undefined,
        actors: [],
        hasJti: true,
        ...options.token,
      },
      apiKey: { kind: "absent" },
      faults: [],
    },
  };
}

/** Bytes that differ at every call and are the same in every run. */
export function countingBytes(): (size: number) => Uint8Array {
  let count = 0;
  return (size) => {
    const bytes = new Uint8Array(size);
    new DataView(bytes.buffer).setUint32(size - 4, ++count);
    return bytes;
  };
}
