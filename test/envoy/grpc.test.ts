import { once } from "node:events";
import { fromBinary } from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import type { ServiceError } from "@grpc/grpc-js";
import t from "tap";
import { runCommand } from "../../scripts/demo/sidecar.ts";
import { ErrorInfoSchema } from "../../src/gen/google/rpc/error_details_pb.ts";
import { StatusSchema } from "../../src/gen/google/rpc/status_pb.ts";
import { reportOften } from "../support/bootstrap.ts";
import { type GrpcAnswer, grpcClient } from "../support/clients.ts";
import { eventually, metric, startGuarded, startInventory } from "../support/guarded.ts";

const PERMISSION_DENIED = 7;
const UNAUTHENTICATED = 16;

const guarded = await startGuarded({
  config: "envoy/grpc.yaml",
  service: startInventory,
  spec: {
    rules: [
      { name: "blocked", match: { principals: ["spiffe://shop.example/blocked"] }, decision: "deny" },
      {
        name: "told",
        match: { principals: ["spiffe://shop.example/told"] },
        decision: "deny",
        response: {
          headers: { "x-support": "https://help.example" },
          deny: { text: "only for HTTP", grpcMessage: "{decision}: ask for {decision_id} (100 %)" },
        },
      },
      { name: "doubted", match: { principals: ["spiffe://shop.example/doubted"] }, decision: "challenge" },
    ],
  },
  change: reportOften,
});
t.teardown(() => guarded.stop());

function errorInfo({ metadata }: GrpcAnswer) {
  const [bytes] = metadata.get("grpc-status-details-bin");
  const status = fromBinary(StatusSchema, bytes as Buffer);
  const info = anyUnpack(status.details[0]!, ErrorInfoSchema);
  return { code: status.code, reason: info?.reason, domain: info?.domain, metadata: info?.metadata };
}

t.test("an honest call passes, and the access log names route, status and fingerprint", async (t) => {
  const client = grpcClient(await guarded.caller("web"));
  t.teardown(() => client.close());
  t.match(await client.get("apple"), { code: 0, stock: { item: "apple", count: 7 } });
  t.match((await guarded.entries(1))[0], {
    path: "/shop.Inventory/Get",
    decision: "allow",
    principal: "spiffe://shop.example/web",
    ja4: /^t13/,
  });
});

t.test("a denial says what the policy says, with its headers", async (t) => {
  const client = grpcClient(await guarded.caller("told"));
  t.teardown(() => client.close());
  const answer = await client.get("apple");
  t.match(answer, { code: PERMISSION_DENIED, message: /^deny: ask for [0-9a-f-]{36} \(100 %\)$/ });
  t.same(answer.metadata.get("x-support"), ["https://help.example"]);
});

t.test("a denial is PERMISSION_DENIED with ErrorInfo", async (t) => {
  const client = grpcClient(await guarded.caller("blocked"));
  t.teardown(() => client.close());
  const answer = await client.get("apple");
  t.match(answer, { code: PERMISSION_DENIED, message: "Access denied" });
  t.match(errorInfo(answer), {
    code: PERMISSION_DENIED,
    reason: "DENIED",
    domain: "sallyport.dev",
    metadata: { decision_id: /^[0-9a-f-]{36}$/ },
  });
});

t.test("a challenge is UNAUTHENTICATED and says what answers it", async (t) => {
  const client = grpcClient(await guarded.caller("doubted"));
  t.teardown(() => client.close());
  const answer = await client.get("apple");
  t.equal(answer.code, UNAUTHENTICATED);
  t.match(errorInfo(answer), { reason: "CHALLENGE", metadata: { challenge: "step-up", issued_after: /^\d{10}$/ } });
  t.match(answer.metadata.get("www-authenticate")[0], /insufficient_user_authentication/);
});

t.test("an open stream reports while it runs", async (t) => {
  const client = grpcClient(await guarded.caller("watcher"));
  const stream = client.watch("apple");
  stream.on("error", () => {}); // cancelled below
  t.teardown(() => {
    stream.cancel();
    client.close();
  });
  await new Promise((resolve) => stream.once("data", resolve));
  t.ok(
    await eventually(
      async () => (await metric(guarded.sidecar, "sallyport_outcomes_total", 'stage="periodic"')) || undefined,
    ),
  );
});

t.test("a locked principal's calls end at once", async (t) => {
  const client = grpcClient(await guarded.caller("victim"));
  t.teardown(() => client.close());
  t.equal((await client.get("apple")).code, 0);
  await runCommand([
    "lock",
    "--principal",
    "spiffe://shop.example/victim",
    "--reason",
    "test",
    "--api",
    `unix:${guarded.sidecar.apiSocket}`,
  ]);
  t.match(await client.get("apple"), { code: PERMISSION_DENIED, message: "Session ended" });
});

t.test("a call is told apart by its method, and our headers go in and out as over HTTP", async (t) => {
  await guarded.setPolicy({
    rules: [{ name: "watchers", match: { routes: ["/shop.Inventory/Watch"] }, decision: "deny" }],
  });
  const client = grpcClient(await guarded.caller("web"));
  t.teardown(() => client.close());
  const headers = { "x-sallyport-principal": "spiffe://shop.example/admin", "x-sallyport-ja4": "spoofed" };
  t.equal((await client.get("apple", headers)).code, 0);
  const { headers: received } = guarded.service.received.at(-1)!;
  t.match(received, { "x-sallyport-decision": "allow", "x-sallyport-principal": "spiffe://shop.example/web" });
  t.notOk("x-sallyport-ja4" in received);
  const stream = client.watch("apple");
  const [error] = (await once(stream, "error")) as [ServiceError];
  t.match(error, { code: PERMISSION_DENIED, details: "Access denied" });
});

t.test("a listed address is challenged as UNAUTHENTICATED, and a fresher token answers", async (t) => {
  await guarded.setPolicy({
    identity: {
      issuers: [{ issuer: "https://issuer.example", audiences: ["sallyport"], jwks: { file: "jwks.json" } }],
    },
    lists: { addresses: [{ name: "proxies", action: "score", bits: 14, ranges: ["127.0.0.1/32"] }] },
  });
  const client = grpcClient(await guarded.caller("roaming"));
  t.teardown(() => client.close());
  const subject = "spiffe://shop.example/roaming";
  const old = await guarded.issuer.token({ subject, issuedAt: new Date(Date.now() - 60_000) });
  const challenged = await client.get("apple", { authorization: `Bearer ${old}` });
  t.equal(challenged.code, UNAUTHENTICATED);
  t.match(challenged.metadata.get("www-authenticate")[0], /^Bearer error="insufficient_user_authentication"/);
  const fresh = await guarded.issuer.token({ subject });
  t.equal((await client.get("apple", { authorization: `Bearer ${fresh}` })).code, 0);
});
