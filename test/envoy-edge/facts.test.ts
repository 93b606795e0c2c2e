import { createHash } from "node:crypto";
import { create, type JsonObject, toBinary } from "@bufbuild/protobuf";
import t from "tap";
import { factsOf } from "../../src/envoy/facts.ts";
import { RequestMemory, readRequest } from "../../src/envoy/request.ts";
import { CheckRequestSchema } from "../../src/gen/envoy/service/auth/v3/external_auth_pb.ts";
import type { IdentityPolicy } from "../../src/model/policy.ts";
import { toEpochMs } from "../../src/model/units.ts";
import { POLICY } from "../support/requests.ts";

const KEY = "sk-live-1";
const IDENTITY: IdentityPolicy = {
  ...POLICY.identity,
  apiKeyHeader: "x-api-key",
  apiKeys: new Map([[createHash("sha256").update(KEY).digest("hex"), "partner"]]),
};

function facts(
  headers: readonly (readonly [string, string])[],
  claims: readonly JsonObject[] = [],
  identity = IDENTITY,
) {
  const jwt = Object.fromEntries(claims.map((claim, i) => [`jwt${i}`, claim]));
  const request = create(CheckRequestSchema, {
    attributes: {
      request: { http: { headerMap: { headers: headers.map(([key, value]) => ({ key, value })) } } },
      metadataContext: { filterMetadata: { "envoy.filters.http.jwt_authn": jwt } },
    },
  });
  const read = readRequest(toBinary(CheckRequestSchema, request), new RequestMemory(1), []);
  return factsOf(read, { kind: "absent" }, identity, new Uint8Array(32), toEpochMs(0)).presented;
}

t.test("a listed key is known by its name, another one by its hash", async (t) => {
  t.match(facts([["x-api-key", KEY]]).apiKey, { kind: "known", name: "partner", id: /^key:[0-9a-f]{16}$/ });
  t.match(facts([["x-api-key", "other"]]).apiKey, { kind: "unknown", id: /^key:[0-9a-f]{16}$/ });
  t.same(facts([]).apiKey, { kind: "absent" });
  t.same(facts([["x-api-key", ""]]).apiKey, { kind: "absent" });
});

t.test("two keys name nobody: the service may believe either", async (t) => {
  const both = facts([
    ["x-api-key", KEY],
    ["x-api-key", "other"],
  ]);
  t.same(both.apiKey, { kind: "absent" });
  t.same(both.faults, ["more than one x-api-key header"]);
});

t.test("two authorization headers are one fault, also where they carry keys", async (t) => {
  const headers = [
    ["authorization", `ApiKey ${KEY}`],
    ["authorization", "ApiKey other"],
  ] as const;
  const { apiKey, faults } = facts(headers, [], { ...IDENTITY, apiKeyHeader: "authorization" });
  t.same(apiKey, { kind: "absent" });
  t.same(faults, ["more than one authorization header"]);
});

t.test("verified tokens of several subjects are a fault, of one they are not", async (t) => {
  const claim = (sub: string): JsonObject => ({ iss: "https://issuer", sub });
  t.same(facts([], [claim("a"), claim("a")]).faults, []);
  t.same(facts([], [claim("a"), claim("b")]).faults, ["verified tokens of several subjects"]);
});
