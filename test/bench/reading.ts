/** Usage: npm run build && tsx test/bench/reading.ts [MESSAGES]   CPU time of reading a check and of encoding its answer. */

import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { CheckRequestSchema, CheckResponseSchema } from "../../src/gen/envoy/service/auth/v3/external_auth_pb.ts";
import { toEpochMs, toScore } from "../../src/model/units.ts";
import type { Verdict } from "../../src/model/verdict.ts";
import { expectedRequest } from "../support/expected-request.ts";
import { expectedResponse } from "../support/expected-response.ts";
import { importBuilt } from "./built.ts";
import { checkTemplates } from "./messages.ts";

const [{ RequestMemory, readRequest }, { responseOf }, { ClaimsMemo, WireRequest }] = (await importBuilt(
  ...["envoy/request", "envoy/response", "envoy/wire-request"],
)) as [
  typeof import("../../src/envoy/request.ts"),
  typeof import("../../src/envoy/response.ts"),
  typeof import("../../src/envoy/wire-request.ts"),
];

const FRAME_BYTES = 5;
const CALLERS = 100;
const messages = Number(process.argv[2] ?? 100_000);
const checks = (await checkTemplates(CALLERS, 1_000)).map(({ bytes }) => Buffer.from(bytes.subarray(FRAME_BYTES)));
const memory = new RequestMemory();
const claims = new ClaimsMemo();

const verdict: Verdict = {
  decisionId: "019caeb6-3000-7000-8000-000000000001",
  time: toEpochMs(Date.now()),
  identity: {
    principal: { kind: "spiffe", name: "spiffe://shop.example/ns/shop/sa/billing" },
    second: undefined,
    delegated: false,
    credential: "none",
    proven: true,
  },
  score: toScore(12.5),
  reasons: [{ signal: "usage.route", bits: 1, points: 12.5, seen: "new route", expected: "/orders" }],
  decision: { kind: "allow" },
  enforced: "allow",
  mode: "enforce",
  rule: "default",
  policyRevision: "shipped-1",
  policyName: "default",
  thresholds: { challenge: 26, deny: 36, terminate: 70 },
  ruleThresholds: undefined,
  route: "/orders",
  answered: false,
  watch: false,
};
const context = {
  protocol: "http",
  policy: { revealReasons: false, upstreamHeaders: true },
  ownHeaders: ["x-sallyport-ja3", "x-sallyport-ja4", "x-sallyport-tls", "x-sallyport-connection"],
  latencyUs: 47,
} as const;

let bytes = 0;
for (const check of checks) bytes += check.length;
console.log(
  `${Math.round(bytes / checks.length)} bytes a message, ${responseOf(verdict, context).length} bytes an answer`,
);
const request = new WireRequest();
const rounds: Record<string, () => number> = {
  "decoded by protobuf-es": () => cpuOf((check) => fromBinary(CheckRequestSchema, check, { readUnknownFields: false })),
  "decoded and read": () =>
    cpuOf((check) =>
      expectedRequest(fromBinary(CheckRequestSchema, check, { readUnknownFields: false }), [], () => true),
    ),
  "walked over": () => cpuOf((check) => request.read(check, claims)),
  "walked over and read": () => cpuOf((check) => readRequest(check, memory, [], () => true, request)),
  "answer encoded by protobuf-es": () => cpuOf(() => toBinary(CheckResponseSchema, expectedResponse(verdict, context))),
  "answer assembled": () => cpuOf(() => responseOf(verdict, context)),
};
const ROUNDS = 5;
const figures = new Map(Object.keys(rounds).map((name) => [name, [] as number[]]));
// The first round only warms up.
for (let round = 0; round <= ROUNDS; round++) {
  for (const [name, run] of Object.entries(rounds)) {
    const figure = run();
    if (round > 0) figures.get(name)?.push(figure);
  }
}
for (const [name, all] of figures) {
  const median = all.sort((a, b) => a - b)[ROUNDS >> 1] ?? Number.NaN;
  console.log(`${name.padEnd(32)}${median.toFixed(2).padStart(8)} µs`);
}

/** CPU microseconds for one message. Reading with certificates parsed anew takes a hundred times as long: fewer then. */
function cpuOf(job: (check: Buffer) => unknown): number {
  const count = job.toString().includes("expectedRequest") ? Math.ceil(messages / 50) : messages;
  const start = process.cpuUsage();
  for (let i = 0; i < count; i++) job(checks[i % checks.length] as Buffer);
  const { user, system } = process.cpuUsage(start);
  return (user + system) / count;
}
