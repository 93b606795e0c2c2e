import t from "tap";
import { defaultPolicy } from "../../src/bundle/default-policy.ts";
import { Networks } from "../../src/bundle/networks.ts";
import { readyPolicy } from "../../src/bundle/ready-policy.ts";
import type { Policy } from "../../src/model/policy.ts";
import { SIGNALS } from "../../src/signals/catalog.ts";

const NETWORKS = Networks.read(
  Networks.write(
    [
      [0, 0],
      [0x0b_00_00_00, 64_500],
    ],
    [[0, 0, 0]],
  ),
);

/** Everything that is a value; what is a look-up is asked below. */
function stated(policy: Policy): Omit<Policy, "signal" | "addresses" | "fingerprints" | "geo" | "postureFacts"> {
  const { signal, addresses, fingerprints, geo, postureFacts, identity, ...rest } = policy;
  return { ...rest, identity: { ...identity, apiKeys: new Map() } };
}

t.test("the policy that needs no schema says what the shipped one says", async (t) => {
  t.strictSame(stated(readyPolicy(NETWORKS)), stated(defaultPolicy(NETWORKS)));
  t.equal(readyPolicy(undefined).identity.apiKeyHeader, undefined);
});

t.test("its look-ups answer as the shipped one's", async (t) => {
  for (const policy of [readyPolicy(NETWORKS), defaultPolicy(NETWORKS)]) {
    for (const { name } of SIGNALS) t.equal(policy.signal(name), undefined, name);
    t.same(policy.geo.place("11.0.0.1"), { asn: 64_500, country: undefined });
    t.equal(policy.addresses.lookup("11.0.0.1"), undefined);
    t.equal(policy.addresses.size, 0);
    for (const lookup of [policy.fingerprints, policy.postureFacts, policy.identity.apiKeys]) {
      t.equal(lookup.size, 0);
      t.equal(lookup.get("a"), undefined);
    }
  }
});
