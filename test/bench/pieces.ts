/** Usage: tsx pieces.ts [TIMES]   What general libraries take for a check's parts, beside what replaces them. */

import { createHmac, randomBytes, X509Certificate } from "node:crypto";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { importBuilt } from "./built.ts";
import { checkTemplates } from "./messages.ts";

const [{ CheckRequestSchema }, { CertificateCache }, { keyedHash }] = (await importBuilt(
  "gen/envoy/service/auth/v3/external_auth_pb",
  "identity/certificate",
  "identity/keyed-hash",
)) as [
  typeof import("../../src/gen/envoy/service/auth/v3/external_auth_pb.ts"),
  typeof import("../../src/identity/certificate.ts"),
  typeof import("../../src/identity/keyed-hash.ts"),
];

const FRAME_BYTES = 5;
const CALLERS = 16;
const MESSAGES = 256;
const ROUNDS = 5;
const times = Number(process.argv[2] ?? 50_000);

const messages = (await checkTemplates(CALLERS, MESSAGES)).map(({ bytes }) => bytes.subarray(FRAME_BYTES));
const decoded = messages.map((bytes) => fromBinary(CheckRequestSchema, bytes));
const told = decoded.map(({ attributes }) => attributes?.source?.certificate ?? "");
const certificates = told.map((encoded) => decodeURIComponent(encoded));
const toldBytes = told.map((encoded) => Buffer.from(encoded));
/** Remembers the last one, and {@link CALLERS} take turns: none is found. */
const forgetful = new CertificateCache(1);
const retentive = new CertificateCache(CALLERS);
const key = randomBytes(32);
const tokens = messages.map(() => randomBytes(525).toString("base64url"));

stage("protobuf-es: decode a CheckRequest", times, (i) => fromBinary(CheckRequestSchema, messages[i] as Buffer));
stage("protobuf-es: encode a CheckRequest", times, (i) => toBinary(CheckRequestSchema, decoded[i] as never));
stage("new X509Certificate", times / 20, (i) => new X509Certificate(certificates[i] as string));
stage("certificate read by own walk", times, (i) => readBy(forgetful, toldBytes[i] as Buffer));
stage("certificate that is remembered", times, (i) => readBy(retentive, toldBytes[i] as Buffer));
stage("hash of a bearer token by createHmac", times, (i) => createHmac("sha256", key).update(tokens[i]!).digest("hex"));
stage("hash of a bearer token", times, (i) => keyedHash(key, tokens[i] as string));

function readBy(cache: InstanceType<typeof CertificateCache>, bytes: Buffer): unknown {
  return cache.read(bytes, 0, bytes.length);
}

/** The best of some rounds: whatever else the machine does only adds. */
function stage(name: string, count: number, job: (i: number) => unknown): void {
  let best = Number.POSITIVE_INFINITY;
  for (let round = 0; round < ROUNDS; round++) {
    const before = process.cpuUsage();
    for (let i = 0; i < count; i++) job(i % MESSAGES);
    const { user, system } = process.cpuUsage(before);
    best = Math.min(best, (user + system) / count);
  }
  console.log(`${name} ${best.toFixed(2)} µs`);
}
