/** Usage: tsx line.ts PRINCIPALS REQUESTS   CPU microseconds per request of scoring and learning, without any transport. */

import { SECOND_MS } from "../../src/model/units.ts";
import { countingBytes, NOON, POLICY, request } from "../support/requests.ts";

// As it is shipped: what runs tests from source costs time of its own.
const built = new URL("../../dist/check/line.js", import.meta.url).href;
const { createLine } = (await import(built)) as typeof import("../../src/check/line.ts");

const [principals = 10, requests = 100_000] = process.argv.slice(2).map(Number);
const line = createLine({ principalsMax: 20_000, sessionsMax: 40_000, random: countingBytes() });
const facts = Array.from({ length: Math.max(principals * 2, 2_000) }, (_, i) => ({
  principal: `spiffe://td/caller-${i % principals}`,
  address: `10.1.${(i % principals) >> 8}.${(i % principals) & 255}`,
  agent: `caller-${i % principals}/1.0 Go-http-client/2.0`,
  path: i % 3 === 0 ? "/orders" : `/orders/${i}`,
}));
let at = NOON;

function run(count: number): void {
  for (let i = 0; i < count; i++) {
    at += (SECOND_MS * 600) / principals;
    const one = request({ ...facts[i % facts.length], at });
    const verdict = line.check(one, POLICY);
    line.learn(one, verdict);
    line.outcome({
      time: one.time,
      decisionId: verdict.decisionId,
      requestId: undefined,
      status: 200,
      grpcStatus: undefined,
      responseBytes: 500 + (i % 100),
      requestBytes: undefined,
      durationMs: 1,
      stage: "end",
    });
  }
}

run(Math.max(20 * principals, 20_000));
const made = measure(() => {
  for (let i = 0; i < requests; i++) request({ ...facts[i % facts.length], at });
});
const all = measure(() => run(requests));
console.log(JSON.stringify({ principals: line.stats().principals, microseconds: (all - made) / requests }));

/** CPU time, microseconds. */
function measure(job: () => void): number {
  const before = process.cpuUsage();
  job();
  const { user, system } = process.cpuUsage(before);
  return user + system;
}
