import t from "tap";
import { originOf } from "../../src/signals/origin.ts";
import { type POLICY, request } from "../support/requests.ts";

/** Another source of geography has a memory of its own. */
const fresh = () => ({ place: () => ({ asn: undefined, country: undefined }) }) as typeof POLICY.geo;
const JA4 = (part: number) => `t13d1312h2_${String(part).padStart(12, "0")}_ab7e3b40a677`;

t.test("whoever calls from an address in turns gets its own origin each time, the same one as before", async (t) => {
  const geo = fresh();
  const callers = [
    { agent: "web/1.0", ja4: JA4(1) },
    { agent: "web/1.0", ja4: JA4(2) },
    { agent: "batch/2.0", ja4: JA4(1) },
  ].map((caller) => request({ address: "192.0.2.7", ...caller }));
  const first = callers.map((facts) => originOf(facts, geo));
  t.match(first, [
    { agent: "web/1.0", cipher: "000000000001", product: "web", network: "192.0.2", block: "192.0" },
    { agent: "web/1.0", cipher: "000000000002" },
    { agent: "batch/2.0", cipher: "000000000001", product: "batch" },
  ]);
  for (let round = 0; round < 3; round++) {
    for (const [i, facts] of callers.entries()) t.equal(originOf(facts, geo), first[i]);
  }
});

t.test("more addresses and clients than are remembered are read as ever", async (t) => {
  const geo = fresh();
  for (let i = 0; i < 40_000; i++) {
    const address = i % 2 === 0 ? `10.${i >> 16}.${(i >> 8) & 255}.${i & 255}` : "10.9.9.9";
    const origin = originOf(request({ address, agent: `agent-${i}/1` }), geo);
    if (origin.address !== address || origin.agent !== `agent-${i}/1`) t.fail(`${i} is ${JSON.stringify(origin)}`);
  }
});
