/** What Envoy sends, as bytes: checks, and access logs with what became of them. */

import { create, type JsonObject, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { createPki } from "../../scripts/pki.ts";
import { AccessLogType } from "../../src/gen/envoy/data/accesslog/v3/accesslog_pb.ts";
import { StreamAccessLogsMessageSchema } from "../../src/gen/envoy/service/accesslog/v3/als_pb.ts";
import { CheckRequestSchema } from "../../src/gen/envoy/service/auth/v3/external_auth_pb.ts";
import { callerOf, DESTINATION, JA4, nameOf, pathOf } from "./callers.ts";

/** Of gRPC: not compressed, then four bytes of length. */
const FRAME_BYTES = 5;
const YEAR_MS = 365 * 86_400_000;
const HOUR_S = 3_600;
const REQUEST_ID = "8ea377f1-5cb7-4b6e-b2ec-000000000000";
const DECISION_ID = "00000000-0000-7000-8000-000000000000";
const DECISION_KEY = Buffer.from("decision_id");
/** From the end of the key to the value: tag and length of google.protobuf.Value, tag and length of its text. */
const VALUE_OFFSET = 4;

/** One message that is sent again and again under request ids of its own. */
export interface Template {
  readonly bytes: Buffer;
  readonly requestIdAt: number;
}

/**
 * Checks of GETs over mTLS with a token that jwt_authn verified, as the shipped configurations have Envoy send them.
 * @param callers the first ask first; every one has its own certificate
 */
export async function checkTemplates(callers: number, count: number): Promise<readonly Template[]> {
  issued ??= certificates();
  const certificateOf = await issued;
  return Array.from({ length: count }, (_, i) => {
    const who = i % callers;
    const check = create(CheckRequestSchema, checkOf(who, pathOf(Math.floor(i / callers)), certificateOf(who)));
    return template(toBinary(CheckRequestSchema, check));
  });
}

/** Certificates and tokens are the same for as long as the process lives: callers do not change theirs every second. */
let issued: ReturnType<typeof certificates> | undefined;
const issuedAt = Math.floor(Date.now() / 1_000) - 60;

function checkOf(who: number, path: string, certificatePem: string): MessageInitShape<typeof CheckRequestSchema> {
  const { spiffeId, address, agent } = callerOf(who);
  const headers = {
    ":authority": DESTINATION,
    ":method": "GET",
    ":path": path,
    ":scheme": "https",
    accept: "application/json",
    "user-agent": agent,
    "x-forwarded-for": address,
    "x-forwarded-proto": "https",
    "x-forwarded-client-cert": `By=spiffe://shop.example/orders;URI=${spiffeId}`,
    "x-request-id": REQUEST_ID,
    "x-sallyport-ja3": "03117a8ed39ef02427ebbc39f121275c",
    "x-sallyport-ja4": JA4,
    "x-sallyport-tls": "TLSv1.3/TLS_AES_128_GCM_SHA256",
    "x-sallyport-connection": String(who),
  };
  const claims: JsonObject = {
    iss: "https://issuer.example",
    sub: spiffeId,
    aud: "orders",
    jti: `token-${nameOf(who)}`,
    iat: issuedAt,
    exp: issuedAt + HOUR_S,
  };
  const socketAddress = (text: string, port: number) =>
    ({
      address: {
        case: "socketAddress",
        value: { address: text, portSpecifier: { case: "portValue", value: port } },
      },
    }) as const;
  return {
    attributes: {
      source: {
        principal: spiffeId,
        certificate: encodeURIComponent(certificatePem),
        address: socketAddress(address, 40_000),
      },
      destination: { principal: "spiffe://shop.example/orders", address: socketAddress("10.0.0.1", 8443) },
      request: {
        http: {
          method: "GET",
          path,
          host: DESTINATION,
          headerMap: {
            headers: Object.entries(headers).map(([key, value]) => ({
              key,
              rawValue: new TextEncoder().encode(value),
            })),
          },
        },
      },
      metadataContext: { filterMetadata: { "envoy.filters.http.jwt_authn": { jwt: claims } } },
    },
  };
}

/**
 * A certificate for each caller. One is issued; the others are it with another name, which invalidates only the
 * signature: verifying that is Envoy's work, and was done before a check is sent.
 */
async function certificates(): Promise<(who: number) => string> {
  const pki = await createPki();
  const { certPem } = await pki.issue({ spiffeId: callerOf(0).spiffeId, ttlMs: YEAR_MS });
  const der = Buffer.from(certPem.replace(/-----[^-]+-----/g, ""), "base64");
  const nameAt = der.indexOf(nameOf(0));
  return (who) => {
    const own = Buffer.from(der);
    own.write(nameOf(who), nameAt, "latin1");
    const lines = own.toString("base64").match(/.{1,64}/g) ?? [];
    return ["-----BEGIN CERTIFICATE-----", ...lines, "-----END CERTIFICATE-----", ""].join("\n");
  };
}

function template(message: Uint8Array): Template {
  const bytes = framed(message);
  return { bytes, requestIdAt: bytes.indexOf(REQUEST_ID) };
}

/** The `number`th of all request ids, each as long as any other. */
export function requestIdOf(number: number): string {
  return REQUEST_ID.slice(0, -12) + String(number).padStart(12, "0");
}

function framed(message: Uint8Array): Buffer {
  const bytes = Buffer.alloc(FRAME_BYTES + message.length);
  bytes.writeUInt32BE(message.length, 1);
  bytes.set(message, FRAME_BYTES);
  return bytes;
}

/** Access log of a batch of requests; entries are filled in one by one. */
export class LogBatch {
  private readonly bytes: Buffer;
  private readonly requestIdsAt: readonly number[];
  private readonly decisionIdsAt: readonly number[];
  private filled = 0;

  constructor(size: number) {
    this.bytes = framed(toBinary(StreamAccessLogsMessageSchema, accessLogOf(size)));
    this.requestIdsAt = allIndexesOf(this.bytes, REQUEST_ID);
    this.decisionIdsAt = allIndexesOf(this.bytes, DECISION_ID);
  }

  /** Adds what became of a request; returns the message once the batch is full. */
  add(number: number, answer: Buffer): Buffer | undefined {
    this.bytes.write(requestIdOf(number), this.requestIdsAt[this.filled] ?? 0, "latin1");
    const idAt = answer.indexOf(DECISION_KEY) + DECISION_KEY.length + VALUE_OFFSET;
    answer.copy(this.bytes, this.decisionIdsAt[this.filled] ?? 0, idAt, idAt + DECISION_ID.length);
    if (++this.filled < this.requestIdsAt.length) return undefined;
    this.filled = 0;
    return Buffer.from(this.bytes);
  }
}

function accessLogOf(size: number) {
  const decided = {
    decision: "allow",
    enforced: "allow",
    score: 0,
    reasons: [],
    principal: callerOf(0).spiffeId,
    decision_id: DECISION_ID,
    policy_revision: "shipped-1",
    mode: "enforce",
    latency_us: 100,
  };
  return create(StreamAccessLogsMessageSchema, {
    identifier: { logName: "sallyport" },
    logEntries: {
      case: "httpLogs",
      value: {
        logEntry: Array.from({ length: size }, (_, i) => ({
          commonProperties: {
            accessLogType: AccessLogType.DownstreamEnd,
            duration: { seconds: 0n, nanos: 3_000_000 },
            metadata: { filterMetadata: { "envoy.filters.http.ext_authz": decided } },
          },
          request: { requestId: REQUEST_ID, requestHeadersBytes: 900n },
          response: { responseCode: 200, responseBodyBytes: BigInt(500 + i) },
        })),
      },
    },
  });
}

function allIndexesOf(bytes: Buffer, text: string): readonly number[] {
  const indexes: number[] = [];
  for (let at = bytes.indexOf(text); at >= 0; at = bytes.indexOf(text, at + 1)) indexes.push(at);
  return indexes;
}
