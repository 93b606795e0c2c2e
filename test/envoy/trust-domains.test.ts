/** Tests trust domains behind an Envoy that trusts the authorities of two. */

import { appendFileSync } from "node:fs";
import t from "tap";
import { createPki } from "../../scripts/pki.ts";
import { letAnybodyIn, together } from "../support/bootstrap.ts";
import { fetchOnce } from "../support/clients.ts";
import { type Entry, startGuarded, startOrders } from "../support/guarded.ts";

const other = await createPki("Another throw-away CA");
const guarded = await startGuarded({
  config: "envoy/http-mtls.yaml",
  service: startOrders,
  change: together(letAnybodyIn, (bootstrap) => {
    const trusted = /"trusted_ca":\{"filename":"([^"]+)"\}/.exec(JSON.stringify(bootstrap.static_resources.listeners));
    appendFileSync(trusted?.[1] ?? "", other.caPem);
  }),
});
t.teardown(() => guarded.stop());
const own = guarded.certs.pki;
const anchored = (name: string, inline: string) => ({ name, anchors: { inline } });

let requests = 0;
async function call(pki: typeof own, spiffeId: string): Promise<readonly [number, unknown, Entry]> {
  const caller = await guarded.caller(undefined, { certificate: await pki.issue({ spiffeId }) });
  const { status } = await fetchOnce(caller, { path: "/orders/1" });
  const log = (await guarded.entries(++requests)).at(-1)!;
  return [status, log.principal, log];
}

t.test("without trust domains, whomever Envoy trusts may vouch for any name", async (t) => {
  t.match(await call(other, "spiffe://shop.example/stolen"), [200, "spiffe://shop.example/stolen"]);
});

t.test("a name of a listed trust domain counts only from the domain's own authority", async (t) => {
  await guarded.setPolicy({ identity: { trustDomains: [anchored("shop.example", own.caPem)] } });
  t.match(await call(own, "spiffe://shop.example/billing"), [200, "spiffe://shop.example/billing"]);
  const [status, principal, log] = await call(other, "spiffe://shop.example/billing");
  t.match([status, principal], [403, "anonymous"], "names nobody");
  t.match(JSON.stringify(log), /identity\.untrusted/);
  t.match(
    await call(other, "spiffe://partner.example/w"),
    [200, "spiffe://partner.example/w"],
    "others are left to Envoy",
  );
});

t.test("an authority of one listed trust domain does not vouch for names of another, listed or not", async (t) => {
  const trustDomains = [anchored("shop.example", own.caPem), anchored("partner.example", other.caPem)];
  await guarded.setPolicy({ identity: { trustDomains } });
  t.match(await call(other, "spiffe://partner.example/w"), [200, "spiffe://partner.example/w"]);
  t.match(await call(own, "spiffe://partner.example/w"), [403, "anonymous"]);
  t.match(await call(own, "spiffe://third.example/w"), [403, "anonymous"]);
});
