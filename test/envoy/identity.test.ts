import { createHash } from "node:crypto";
import { writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import t from "tap";
import { runCommand } from "../../scripts/demo/sidecar.ts";
import { createIssuer, createPki } from "../../scripts/pki.ts";
import { listen } from "../../scripts/services/service.ts";
import { letAnybodyIn } from "../support/bootstrap.ts";
import { type Answer, type Call, type Caller, fetchOnce, tlsConnection } from "../support/clients.ts";
import { type Entry, type Spec, startGuarded, startOrders } from "../support/guarded.ts";

const remote = await createIssuer("https://remote.example");
let served = 0;
const keyServer = createServer((_request, response) => {
  served++;
  response.writeHead(200, { "content-type": "application/jwk-set+json" }).end(JSON.stringify(remote.jwks));
});
const keysPort = await listen(keyServer, 0);
const KEY = "sk-live-4f9a1c77b2";

const SPEC: Spec = {
  identity: {
    issuers: [
      { issuer: "https://issuer.example", audiences: ["sallyport"], jwks: { file: "jwks.json" } },
      { issuer: remote.issuer, jwks: { url: `http://127.0.0.1:${keysPort}/keys` } },
    ],
    apiKeys: { keys: [{ name: "partner", sha256: createHash("sha256").update(KEY).digest("hex") }] },
    delegations: [{ caller: "spiffe://shop.example/gateway", subject: "customer-*" }],
    singleUseIssuers: [remote.issuer],
  },
  challenge: { acrValues: ["gold", "silver"], maxAge: "60s" },
  posture: {
    forbid: [{ name: "compliant", fact: "compliant", in: ["false"] }],
    files: ["facts.yaml"],
  },
  rules: [{ name: "step-up", match: { routes: ["/customers/**"] }, decision: "challenge" }],
};

const guarded = await startGuarded({
  config: "envoy/http-mtls.yaml",
  service: startOrders,
  spec: SPEC,
  prepare: (folder) =>
    writeFileSync(
      join(folder, "facts.yaml"),
      'facts: [{subject: "spiffe://shop.example/rooted", facts: {compliant: "false"}, source: scanner}]\n',
    ),
  change: letAnybodyIn,
});
t.teardown(async () => {
  await guarded.stop();
  keyServer.close();
});
const { issuer, service, sidecar } = guarded;
const anonymous = await guarded.caller();

let requests = 0;
async function call(
  caller: Caller,
  headers: Call["headers"] = {},
  path = "/orders/1",
): Promise<Answer & { log: Entry }> {
  const answer = await fetchOnce(caller, { path, headers });
  requests++;
  return { ...answer, log: (await guarded.entries(requests)).at(-1)! };
}

const bearer = (token: string) => ({ authorization: `Bearer ${token}` });
const upstream = (): unknown => service.received.at(-1)?.headers["x-sallyport-principal"];

t.test("who proves nothing is anonymous", async (t) => {
  const { status, log } = await call(anonymous);
  t.match([status, log], [200, { decision: "allow", principal: "anonymous" }]);
  t.equal(upstream(), "anonymous");
});

t.test("a token is verified with keys from a file, and with keys from the issuer's address", async (t) => {
  for (const from of [issuer, remote]) {
    const { status, log } = await call(anonymous, bearer(await from.token({ subject: "billing" })));
    t.match([status, log], [200, { principal: `${from.issuer}|billing` }]);
    t.equal(upstream(), `${from.issuer}|billing`);
  }
  t.equal(served, 1, "fetched once, at the start");
});

t.test("a token of another issuer, for somebody else or of yesterday names nobody", async (t) => {
  const other = await createIssuer("https://other.example");
  const day = 86_400_000;
  const tokens = [
    await other.token({ subject: "billing" }),
    await issuer.token({ subject: "billing", audience: "somebody-else" }),
    await issuer.token({ subject: "billing", issuedAt: new Date(Date.now() - day) }),
    "opaque",
  ];
  for (const token of tokens) t.match((await call(anonymous, bearer(token))).log, { principal: "anonymous" });
});

t.test("a token that pretends is denied: false signature, no algorithm, the public key as a secret", async (t) => {
  const forger = await createIssuer("https://issuer.example");
  const forged = await forger.token({ subject: "billing" });
  const [, body] = forged.split(".");
  const [head] = (await issuer.token({ subject: "x" })).split(".");
  const none = Buffer.from('{"alg":"none"}').toString("base64url");
  for (const token of [`${head}.${body}.${"A".repeat(86)}`, `${none}.${body}.`]) {
    const { status, log } = await call(anonymous, bearer(token));
    t.match(
      [status, log],
      [403, { decision: "deny", score: 100, reasons: ["credential.forged:100"], principal: "anonymous" }],
    );
  }
  t.match((await call(anonymous, bearer(forged))).log, { principal: "anonymous" }, "an unknown key names nobody");
});

t.test("a known API key names its holder, an unknown one nobody and is evidence", async (t) => {
  const known = await call(anonymous, { "x-api-key": KEY });
  t.match([known.status, known.log], [200, { principal: "api-key/partner" }]);
  const unknown = await call(anonymous, { "x-api-key": "sk-guessed" });
  t.match([unknown.status, unknown.log], [401, { principal: "anonymous", reasons: [/^credential\.unknown_key:/] }]);
});

t.test("two keys at once name nobody: the service may believe either", async (t) => {
  const connection = await tlsConnection(anonymous);
  connection.socket.write(
    `GET /orders/1 HTTP/1.1\r\nhost: orders\r\nx-api-key: ${KEY}\r\nx-api-key: sk-other\r\nconnection: close\r\n\r\n`,
  );
  await connection.until("HTTP/1.1 ");
  await connection.closed;
  requests++;
  t.match((await guarded.entries(requests)).at(-1), { principal: "anonymous", reasons: [/^identity\.faults:/] });
});

t.test(
  "certificate and token of two workloads: declared delegation is legitimate, undeclared is evidence",
  async (t) => {
    const token = await issuer.token({ subject: "customer-7" });
    const declared = await call(await guarded.caller("gateway"), bearer(token));
    t.match([declared.status, declared.log], [200, { principal: "spiffe://shop.example/gateway" }]);
    t.notOk(JSON.stringify(declared.log.reasons).includes("credential.subject"));
    const undeclared = await call(await guarded.caller("web"), bearer(await issuer.token({ subject: "customer-8" })));
    t.match(undeclared.log, { principal: "spiffe://shop.example/web", reasons: [/^credential\.subject:/] });
    const claims = { act: { sub: "spiffe://shop.example/worker" } };
    const acting = await call(
      await guarded.caller("worker"),
      bearer(await issuer.token({ subject: "customer-9", claims })),
    );
    t.notOk(
      JSON.stringify(acting.log.reasons).includes("credential.subject"),
      "the issuer itself declared it (RFC 8693)",
    );
  },
);

t.test("a token bound to a certificate is good with it only (RFC 8705)", async (t) => {
  const owner = await guarded.caller("owner");
  const thumbprint = Buffer.from(owner.certificate!.sha256, "hex").toString("base64url");
  const claims = { cnf: { "x5t#S256": thumbprint } };
  const token = await issuer.token({ subject: "spiffe://shop.example/owner", claims });
  t.equal((await call(owner, bearer(token))).status, 200);
  for (const thief of [anonymous, await guarded.caller("thief"), await guarded.caller("owner")]) {
    const { status, log } = await call(thief, bearer(token));
    t.match([status, log], [403, { score: 100, reasons: ["credential.binding:100"] }]);
  }
});

t.test("a token that may be used once is not ordinary the second time", async (t) => {
  const token = await remote.token({ subject: "once" });
  t.match((await call(anonymous, bearer(token))).log, { reasons: [] });
  t.match(JSON.stringify((await call(anonymous, bearer(token))).log.reasons), /credential\.reused/);
});

t.test(
  "a challenge asks for what the policy wants of the next token, and only such a one answers (RFC 9470)",
  async (t) => {
    const path = "/customers/1";
    const subject = "spiffe://shop.example/stepping";
    const stepping = await guarded.caller("stepping");
    const asked = await call(
      stepping,
      bearer(await issuer.token({ subject, issuedAt: new Date(Date.now() - 60_000) })),
      path,
    );
    t.equal(asked.status, 401);
    t.match(
      asked.headers["www-authenticate"],
      /^Bearer error="insufficient_user_authentication", error_description="[^"]+", max_age="60", acr_values="gold silver"$/,
    );
    t.match(asked.headers, {
      "content-type": "application/problem+json",
      "x-sallyport-challenge": "step-up",
      "x-sallyport-issued-after": /^\d{10}$/,
    });
    const plain = await call(stepping, bearer(await issuer.token({ subject })), path);
    t.equal(plain.status, 401, "fresh, but not of the wanted kind");
    const golden = await call(stepping, bearer(await issuer.token({ subject, claims: { acr: "gold" } })), path);
    t.match([golden.status, golden.log], [200, { decision: "allow" }]);
  },
);

t.test("somebody else's fresh token answers nothing", async (t) => {
  const path = "/customers/2";
  const lured = await guarded.caller("lured");
  const own = await issuer.token({ subject: "spiffe://shop.example/lured", issuedAt: new Date(Date.now() - 60_000) });
  t.equal((await call(lured, bearer(own), path)).status, 401);
  const foreign = await issuer.token({ subject: "spiffe://shop.example/somebody", claims: { acr: "gold" } });
  t.not((await call(lured, bearer(foreign), path)).status, 200);
});

t.test("a workload whose stated condition is forbidden is denied, by file and at run time", async (t) => {
  const rooted = await call(await guarded.caller("rooted"));
  t.match([rooted.status, rooted.log], [403, { score: 100, reasons: ["posture.forbidden:100"] }]);
  const scanned = await guarded.caller("scanned");
  t.equal((await call(scanned)).status, 200);
  const state = (fact: string) =>
    runCommand(["posture", "spiffe://shop.example/scanned", fact, "--api", `unix:${sidecar.apiSocket}`]);
  t.equal((await state("compliant=false")).code, 0);
  t.equal((await call(scanned)).status, 403);
  t.equal((await state("compliant=true")).code, 0);
  t.equal((await call(scanned)).status, 200);
});

t.test("a certificate of another authority, and one that is over, are nobody's to begin with", async (t) => {
  const foreign = await (await createPki()).issue({ spiffeId: "spiffe://shop.example/web" });
  const over = await guarded.certs.pki.issue({
    spiffeId: "spiffe://shop.example/web",
    notBefore: new Date(Date.now() - 7_200_000),
    ttlMs: 3_600_000,
  });
  for (const certificate of [foreign, over])
    await t.rejects(fetchOnce({ ...anonymous, certificate }, { path: "/orders/1" }));
});

t.test("certificates whose names are no SPIFFE IDs name nobody", async (t) => {
  const named = [
    await guarded.certs.pki.issue({ dns: ["web.shop.example"] }),
    await guarded.certs.pki.issue({ spiffeId: "spiffe://shop.example/a/../admin" }),
    await guarded.certs.pki.issue({ spiffeId: "https://shop.example/web" }),
  ];
  for (const certificate of named) {
    t.match((await call({ ...anonymous, certificate })).log, { principal: "anonymous" });
  }
});
