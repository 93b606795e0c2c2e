import t from "tap";
import { fetchOnce } from "../support/clients.ts";
import { startGuarded, startOrders } from "../support/guarded.ts";

const guarded = await startGuarded({
  config: "envoy/behind-proxy.yaml",
  service: startOrders,
  spec: { identity: { xfccHops: ["spiffe://shop.example/edge"] } },
});
t.teardown(() => guarded.stop());
const edge = await guarded.caller("edge");
const HASH = "a1".repeat(32);

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
