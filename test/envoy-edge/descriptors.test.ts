import { existsSync, readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import {
  createFileRegistry,
  type DescFile,
  type DescMessage,
  type FileRegistry,
  fromBinary,
  fromJson,
  type JsonValue,
  toBinary,
} from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import t from "tap";
import { defaultPolicy } from "../../src/bundle/default-policy.ts";
import { createLine } from "../../src/check/line.ts";
import { outcomesOf } from "../../src/envoy/access-log.ts";
import { Authorizer } from "../../src/envoy/authorizer.ts";
import { KeySets } from "../../src/envoy/key-sets.ts";
import { Tokens } from "../../src/envoy/tokens.ts";
import {
  file_envoy_service_accesslog_v3_als,
  StreamAccessLogsMessageSchema,
} from "../../src/gen/envoy/service/accesslog/v3/als_pb.ts";
import {
  CheckResponseSchema,
  file_envoy_service_auth_v3_external_auth,
} from "../../src/gen/envoy/service/auth/v3/external_auth_pb.ts";
import { toEpochMs } from "../../src/model/units.ts";
import type { Verdict } from "../../src/model/verdict.ts";
import { countingBytes } from "../support/requests.ts";
import { skipUnless } from "../support/skip.ts";

/** Envoy's full descriptors and recorded requests are too large to be part of this repository. */
const DATA = process.env.SALLYPORT_SHARED ?? fileURLToPath(new URL("../../../shared", import.meta.url));
const DESCRIPTORS = `${DATA}/envoy/descriptors.binpb`;
const SAMPLES = `${DATA}/envoy/samples`;
const missing = (path: string) =>
  skipUnless(existsSync(path), `${path} is not here; SALLYPORT_SHARED names the folder`, { obtainable: false });

const OURS = [file_envoy_service_auth_v3_external_auth, file_envoy_service_accesslog_v3_als];

function filesOf(files: readonly DescFile[], seen = new Map<string, DescFile>()): readonly DescFile[] {
  for (const file of files) {
    if (seen.has(file.name)) continue;
    seen.set(file.name, file);
    filesOf(file.dependencies, seen);
  }
  return [...seen.values()];
}

function messagesOf(messages: readonly DescMessage[]): readonly DescMessage[] {
  return messages.flatMap((message) => [message, ...messagesOf(message.nestedMessages)]);
}

const upstreamPackages = /^(?:envoy|google\.rpc)\./;
const messages = filesOf(OURS)
  .flatMap((file) => messagesOf(file.messages))
  .filter(({ typeName }) => upstreamPackages.test(typeName));
const enums = filesOf(OURS)
  .flatMap((file) => [...file.enums, ...messagesOf(file.messages).flatMap(({ nestedEnums }) => nestedEnums)])
  .filter(({ typeName }) => upstreamPackages.test(typeName));

t.test("the subset holds what is asked, answered and logged", async (t) => {
  const names = messages.map(({ typeName }) => typeName);
  for (const name of [
    "envoy.service.auth.v3.CheckRequest",
    "envoy.service.auth.v3.CheckResponse",
    "envoy.service.accesslog.v3.StreamAccessLogsMessage",
    "envoy.data.accesslog.v3.AccessLogCommon",
  ]) {
    t.ok(names.includes(name), name);
  }
});

t.test("every message, field and number of the subset is upstream's", missing(DESCRIPTORS), async (t) => {
  const upstream = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(DESCRIPTORS)));
  for (const message of messages) {
    const theirs = upstream.getMessage(message.typeName);
    // The set holds what ext_authz needs: access logs are held against recorded ones, here and from a real Envoy.
    if (theirs === undefined) {
      t.notOk(holds(upstream, message.file), `${message.typeName} is no message of upstream's`);
      continue;
    }
    for (const field of message.fields) {
      const their = theirs.fields.find(({ name }) => name === field.name);
      t.same(kindOf(field), their === undefined ? undefined : kindOf(their), `${message.typeName}.${field.name}`);
    }
  }
  for (const ours of enums) {
    if (!holds(upstream, ours.file)) continue;
    const theirs = new Map(upstream.getEnum(ours.typeName)?.values.map(({ name, number }) => [name, number]));
    for (const { name, number } of ours.values) t.equal(theirs.get(name), number, `${ours.typeName}.${name}`);
  }
  for (const file of OURS) {
    for (const service of holds(upstream, file) ? file.services : []) {
      const theirs = upstream.getService(service.typeName);
      for (const { name, methodKind, input, output } of service.methods) {
        const their = theirs?.methods.find((method) => method.name === name);
        t.same(
          [methodKind, input.typeName, output.typeName],
          [their?.methodKind, their?.input.typeName, their?.output.typeName],
          `${service.typeName}/${name}`,
        );
      }
    }
  }
});

function holds(upstream: FileRegistry, file: DescFile): boolean {
  return upstream.getFile(file.name) !== undefined;
}

/** Number, cardinality and type: what has to agree on the wire. */
function kindOf(field: DescMessage["fields"][number]): unknown {
  return {
    number: field.number,
    kind: field.fieldKind,
    oneof: field.oneof?.name,
    scalar: field.scalar,
    message: field.message?.typeName,
    enum: field.enum?.typeName,
    ...(field.fieldKind === "list" ? { list: field.listKind } : {}),
    ...(field.fieldKind === "map" ? { map: field.mapKind, key: field.mapKey } : {}),
  };
}

t.test("every recorded request is judged without an error", missing(SAMPLES), async (t) => {
  const verdicts: Verdict[] = [];
  const policy = defaultPolicy();
  const key = new Uint8Array(32);
  const now = (): number => Date.parse("2026-03-02T12:00:00Z");
  const authorizer = new Authorizer({
    line: createLine({ principalsMax: 100, sessionsMax: 100, random: countingBytes() }),
    policy: () => policy,
    tokens: new Tokens({ key, keySets: new KeySets({ now, onError: (error) => t.fail(error.message) }), now }),
    key,
    now,
    microseconds: () => 0,
    onVerdict: (_facts, verdict) => verdicts.push(verdict),
    onError: (error) => t.error(error),
  });
  const names = readdirSync(SAMPLES).filter((file) => file.endsWith(".bin"));
  t.ok(names.length >= 20, `${names.length} samples`);
  for (const name of names) {
    const bytes = await authorizer.check(readFileSync(`${SAMPLES}/${name}`));
    const answer = fromBinary(CheckResponseSchema, bytes);
    const decision = String(answer.dynamicMetadata?.decision);
    t.match(decision, /^(?:allow|challenge|deny)$/, name);
    t.equal(answer.status?.code === 0, decision === "allow", name);
    t.equal(answer.httpResponse.case === undefined, /^tcp-\d/.test(name), `${name}: raw TCP`);
  }
  await new Promise((resolve) => setImmediate(resolve));
  t.equal(verdicts.length, names.length);
  t.ok(verdicts.some(({ identity }) => identity.principal.kind === "spiffe"));
  t.ok(verdicts.some(({ identity }) => identity.second?.kind === "jwt" || identity.principal.kind === "jwt"));
});

/** Entries of recorded access logs by the shape of their message, and what must be read from each. */
const LOGS = [
  { name: "als-http", stage: "end" },
  { name: "als-tcp-TcpConnectionEnd", stage: "end" },
  { name: "als-tcp-TcpPeriodic", stage: "periodic" },
  { name: "als-tcp-TcpConnectionStart", stage: undefined },
  { name: "als-tcp-TcpUpstreamConnected", stage: undefined },
];

t.test("recorded access logs tell their outcome under upstream's names", missing(SAMPLES), async (t) => {
  for (const { name, stage } of LOGS) {
    const json = JSON.parse(readFileSync(`${SAMPLES}/${name}.json`, "utf8")) as Record<string, JsonValue>;
    const message = "common_properties" in json ? { tcp_logs: { log_entry: [json] } } : json;
    const read = fromJson(StreamAccessLogsMessageSchema, message, { ignoreUnknownFields: true });
    const outcomes = outcomesOf(toBinary(StreamAccessLogsMessageSchema, read), toEpochMs(0));
    t.same([...new Set(outcomes.map((outcome) => outcome.stage))], stage === undefined ? [] : [stage], name);
    for (const outcome of outcomes) t.type(outcome.responseBytes, "number", name);
    const entries = read.logEntries.value?.logEntry ?? [];
    t.ok(entries.length > 0, name);
    for (const { commonProperties } of entries) t.match(commonProperties?.streamId, /^[0-9a-f-]{36}$/, name);
  }
});
