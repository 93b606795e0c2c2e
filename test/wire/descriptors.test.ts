import { existsSync, readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { createFileRegistry, type DescFile, type DescMessage, fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import t from "tap";
import { readRequest } from "../../src/envoy/request.ts";
import {
  CheckRequestSchema,
  file_envoy_service_auth_v3_external_auth,
} from "../../src/gen/envoy/service/auth/v3/external_auth_pb.ts";
import { CertificateCache } from "../../src/identity/certificate.ts";

/** Envoy's full descriptors and recorded requests; only there are these tests made. */
const DATA = process.env.SALLYPORT_SHARED ?? fileURLToPath(new URL("../../../shared", import.meta.url));
const DESCRIPTORS = `${DATA}/envoy/descriptors.binpb`;
const SAMPLES = `${DATA}/envoy/samples`;

function messagesOf(file: DescFile, seen = new Set<string>()): readonly DescMessage[] {
  if (seen.has(file.name)) return [];
  seen.add(file.name);
  const nested = (messages: readonly DescMessage[]): DescMessage[] =>
    messages.flatMap((message) => [message, ...nested(message.nestedMessages)]);
  return [...nested(file.messages), ...file.dependencies.flatMap((dependency) => messagesOf(dependency, seen))];
}

t.test("our own messages have packages and names", async (t) => {
  t.ok(messagesOf(file_envoy_service_auth_v3_external_auth).some(({ typeName }) => typeName.endsWith(".CheckRequest")));
});

if (existsSync(DESCRIPTORS)) {
  const upstream = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(DESCRIPTORS)));
  t.test("every field of our subset is upstream's, with its number and kind", async (t) => {
    for (const message of messagesOf(file_envoy_service_auth_v3_external_auth)) {
      const theirs = upstream.getMessage(message.typeName);
      if (theirs === undefined) continue;
      for (const field of message.fields) {
        const their = theirs.fields.find(({ name }) => name === field.name);
        t.same([field.number, field.fieldKind], [their?.number, their?.fieldKind], `${message.typeName}.${field.name}`);
      }
    }
  });
}

if (existsSync(SAMPLES)) {
  for (const name of readdirSync(SAMPLES).filter((file) => file.endsWith(".bin"))) {
    t.test(`the recorded request ${name} is read`, async (t) => {
      const request = fromBinary(CheckRequestSchema, readFileSync(`${SAMPLES}/${name}`));
      const read = readRequest(request, new CertificateCache(8), []);
      t.equal(read.protocol === "tcp", /^tcp-\d/.test(name));
      t.match(read.destination, /\S/);
      t.same(read.faults, []);
    });
  }
}
