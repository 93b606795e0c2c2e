import t from "tap";
import { fetchOnce } from "../support/clients.ts";
import { command } from "../support/command.ts";
import { startGuarded, startOrders } from "../support/guarded.ts";

const guarded = await startGuarded({ config: "envoy/jwt.yaml", service: startOrders });
t.teardown(() => guarded.stop());
const { issuer, service } = guarded;
const anyone = await guarded.caller();

const bearer = (token: string) => ({ authorization: `Bearer ${token}` });
const principalOf = (): unknown => service.received.at(-1)?.headers["x-sallyport-principal"];

t.test("what jwt_authn verified names the caller", async (t) => {
  const token = await issuer.token({ subject: "billing" });
  t.equal((await fetchOnce(anyone, { path: "/orders/1", headers: bearer(token) })).status, 200);
  t.equal(principalOf(), "https://issuer.example|billing");
  t.match((await guarded.entries(1))[0], {
    decision: "allow",
    principal: "https://issuer.example|billing",
    ja4: /^t13/,
  });
});

t.test("without a token the caller is anonymous", async (t) => {
  t.equal((await fetchOnce(anyone, { path: "/orders/1" })).status, 200);
  t.equal(principalOf(), "anonymous");
});

t.test("a token that does not verify never reaches the service", async (t) => {
  const before = service.received.length;
  const token = await issuer.token({ subject: "billing", issuedAt: new Date(Date.now() - 3_600_000), ttlSeconds: 60 });
  t.equal((await fetchOnce(anyone, { path: "/orders/1", headers: bearer(token) })).status, 401);
  t.equal(service.received.length, before);
});

t.test("what a caller says under our prefix or as verified claims is not believed", async (t) => {
  const headers = {
    "x-sallyport-principal": "admin",
    "x-jwt-payload": '{"iss":"https://issuer.example","sub":"admin"}',
  };
  t.equal((await fetchOnce(anyone, { path: "/orders/1", headers })).status, 200);
  t.equal(principalOf(), "anonymous");
});

t.test("a token without subject names nobody; another audience is refused before Sallyport is asked", async (t) => {
  const nameless = await issuer.token({ subject: "x", claims: { sub: undefined } });
  t.equal((await fetchOnce(anyone, { path: "/orders/1", headers: bearer(nameless) })).status, 200);
  t.equal(principalOf(), "anonymous");
  const foreign = await issuer.token({ subject: "billing", audience: "other" });
  t.equal((await fetchOnce(anyone, { path: "/orders/1", headers: bearer(foreign) })).status, 403);
  t.match((await guarded.entries(1, ({ code }) => code === 403)).at(-1), { decision: null, details: /^jwt_authn/ });
});

t.test("a stolen token is locked by its credential, a new one of the same caller works", async (t) => {
  const token = await issuer.token({ subject: "robbed" });
  await fetchOnce(anyone, { path: "/orders/1", headers: bearer(token) });
  const { headers } = service.received.at(-1)!;
  const api = ["--api", `unix:${guarded.sidecar.apiSocket}`];
  const explained = await command(["explain", String(headers["x-sallyport-decision-id"]), "--output", "json", ...api]);
  const { credential } = JSON.parse(explained.out) as { credential: string };
  t.equal((await command(["lock", "--credential", credential, "--reason", "test", ...api])).code, 0);
  t.equal((await fetchOnce(anyone, { path: "/orders/1", headers: bearer(token) })).status, 403);
  const fresh = bearer(await issuer.token({ subject: "robbed" }));
  t.equal((await fetchOnce(anyone, { path: "/orders/1", headers: fresh })).status, 200);
});

t.test("a token bound to a certificate needs that certificate (RFC 8705)", async (t) => {
  const owner = await guarded.caller("billing");
  const thumbprint = Buffer.from(owner.certificate!.sha256, "hex").toString("base64url");
  const token = await issuer.token({
    subject: "spiffe://shop.example/billing",
    claims: { cnf: { "x5t#S256": thumbprint } },
  });
  t.equal((await fetchOnce(owner, { path: "/orders/1", headers: bearer(token) })).status, 200);
  t.equal(principalOf(), "spiffe://shop.example/billing");
  t.equal((await fetchOnce(anyone, { path: "/orders/1", headers: bearer(token) })).status, 403);
  t.match((await guarded.entries(1, ({ reasons }) => String(reasons).includes("binding"))).at(-1), {
    code: 403,
    reasons: ["credential.binding:100"],
  });
});
