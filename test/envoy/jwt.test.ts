import t from "tap";
import { fetchOnce } from "../support/clients.ts";
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
  t.match((await guarded.entries(1, ({ code }) => code === 403)).at(-1), { reasons: ["credential.binding:100"] });
});
