import t from "tap";
import { fetchOnce } from "../support/clients.ts";
import { command } from "../support/command.ts";
import { startGuarded, startOrders } from "../support/guarded.ts";

const guarded = await startGuarded({
  config: "envoy/behind-proxy.yaml",
  service: startOrders,
  spec: { identity: { xfccHops: ["spiffe://shop.example/edge"] } },
});
t.teardown(() => guarded.stop());
const edge = await guarded.caller("edge");
const HASH = "a1".repeat(32);

const told = (element: string, more: Record<string, string> = {}) => ({ "x-forwarded-client-cert": element, ...more });
const WEB = `By=spiffe://shop.example/edge;Hash=${HASH};URI=spiffe://shop.example/web`;
const principalOf = (): unknown => guarded.service.received.at(-1)?.headers["x-sallyport-principal"];

t.test("what the listed hop tells of the caller is believed: certificate, address, fingerprint", async (t) => {
  const answer = await fetchOnce(edge, {
    path: "/orders/1",
    headers: {
      "x-forwarded-client-cert": `By=spiffe://shop.example/edge;Hash=${HASH};URI=spiffe://shop.example/web`,
      "x-forwarded-for": "198.51.100.7",
      "x-edge-ja4": "t13d1312h2_f57a46bbacb6_ab7e3b40a677",
    },
  });
  t.equal(answer.status, 200);
  t.equal(principalOf(), "spiffe://shop.example/web");
  const [entry] = await guarded.entries(1);
  t.match(entry, { decision: "allow", principal: "spiffe://shop.example/web" });
  t.match(String(entry?.source), /^198\.51\.100\.7/);
});

t.test("an element that the caller put further out is not believed", async (t) => {
  const forged = `Hash=${"b2".repeat(32)};URI=spiffe://shop.example/admin`;
  await fetchOnce(edge, {
    path: "/orders/1",
    headers: {
      "x-forwarded-client-cert": `${forged},By=spiffe://shop.example/edge;Hash=${HASH};URI=spiffe://shop.example/web`,
    },
  });
  t.equal(principalOf(), "spiffe://shop.example/web");
});

t.test("a header that cannot be read names nobody new", async (t) => {
  await fetchOnce(edge, { path: "/orders/1", headers: { "x-forwarded-client-cert": "rubbish" } });
  t.equal(principalOf(), "spiffe://shop.example/edge");
});

t.test(
  "the caller's certificate, passed on whole, is read with its name; a hash that differs from it is not believed",
  async (t) => {
    const { certPem, sha256 } = await guarded.certs.caller("reports");
    const cert = encodeURIComponent(certPem);
    await fetchOnce(edge, { path: "/orders/1", headers: told(`Hash=${sha256};Cert="${cert}"`) });
    t.equal(principalOf(), "spiffe://shop.example/reports");
    await fetchOnce(edge, { path: "/orders/1", headers: told(`Hash=${HASH};Cert="${cert}"`) });
    t.equal(principalOf(), "spiffe://shop.example/edge");
  },
);

t.test("a chain of proxies is passed over when all are listed: the first other one is the caller", async (t) => {
  const chain = `${WEB},By=spiffe://shop.example/edge;Hash=${HASH};URI=spiffe://shop.example/edge`;
  await fetchOnce(edge, { path: "/orders/1", headers: told(chain) });
  t.equal(principalOf(), "spiffe://shop.example/web");
});

t.test("what is locked is the caller that the hop names, not the hop", async (t) => {
  const locked = await command([
    ...[
      "lock",
      "--principal",
      "spiffe://shop.example/web",
      "--reason",
      "test",
      "--output",
      "json",
      "--api",
      `unix:${guarded.sidecar.apiSocket}`,
    ],
  ]);
  t.equal((await fetchOnce(edge, { path: "/orders/1", headers: told(WEB) })).status, 403);
  const other = WEB.replace("/web", "/billing");
  t.equal((await fetchOnce(edge, { path: "/orders/1", headers: told(other) })).status, 200);
  const { id } = JSON.parse(locked.out) as { id: string };
  await command(["unlock", id, "--api", `unix:${guarded.sidecar.apiSocket}`]);
});

t.test("the check sees the caller's address and fingerprint, the service none of what was handed over", async (t) => {
  const ja4 = "t13d1312h2_f57a46bbacb6_ab7e3b40a677";
  const more = { "x-forwarded-for": "203.0.113.1, 198.51.100.7", "x-edge-ja4": ja4, "x-sallyport-source": "10.0.0.1" };
  await fetchOnce(edge, { path: "/orders/1", headers: told(WEB, more) });
  const { headers } = guarded.service.received.at(-1)!;
  const id = String(headers["x-sallyport-decision-id"]);
  const { out } = await command(["explain", id, "--output", "json", "--api", guarded.sidecar.api]);
  t.match(JSON.parse(out), { source_address: "198.51.100.7", ja4 });
  t.same(
    Object.keys(headers)
      .filter((name) => /^x-(?:edge|sallyport)-/.test(name))
      .sort(),
    ["x-sallyport-decision", "x-sallyport-decision-id", "x-sallyport-principal", "x-sallyport-score"],
  );
});

t.test("nobody but the proxy is let in at all", async (t) => {
  await t.rejects(fetchOnce(await guarded.caller("web"), { path: "/orders/1", headers: told(WEB) }));
});

t.test("a hop that the policy does not list is believed nothing: it is itself the caller", async (t) => {
  await guarded.setPolicy({ identity: { xfccHops: ["spiffe://shop.example/other-edge"] } });
  await fetchOnce(edge, { path: "/orders/1", headers: told(WEB) });
  t.equal(principalOf(), "spiffe://shop.example/edge");
  await guarded.setPolicy({});
  await fetchOnce(edge, { path: "/orders/1", headers: told(WEB) });
  t.equal(principalOf(), "spiffe://shop.example/edge");
});
