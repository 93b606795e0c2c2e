/** Tests which requests are held where no rule says. */

import t from "tap";
import { LastingRoutes } from "../../src/check/lasting-routes.ts";
import { createLine } from "../../src/check/line.ts";
import type { Policy } from "../../src/model/policy.ts";
import { toEpochMs } from "../../src/model/units.ts";
import { countingBytes, NOON, POLICY, request } from "../support/requests.ts";

const NONE: Policy = { ...POLICY, streams: { ...POLICY.streams, hold: "none" } };

const line = () => createLine({ principalsMax: 10, sessionsMax: 10, random: countingBytes() });

t.test("a request that says that it will last is held, unless policy holds none", async (t) => {
  const one = line();
  t.equal(one.check(request(), POLICY).watch, false);
  t.equal(one.check({ ...request(), lasting: true }, POLICY).watch, true);
  t.equal(one.check({ ...request(), lasting: true }, NONE).watch, false);
});

for (const { name, stage, durationMs, held } of [
  { name: "was open when Envoy first reported", stage: "periodic", durationMs: undefined, held: true },
  { name: "took ten seconds", stage: "end", durationMs: 10_000, held: true },
  { name: "took a moment less", stage: "end", durationMs: 9_999, held: false },
] as const) {
  t.test(`a route of which a request ${name} is ${held ? "" : "not "}held from then on`, async (t) => {
    const one = line();
    const path = "/shop.Inventory/Watch";
    const first = one.check(request({ path, protocol: "grpc" }), POLICY);
    t.equal(first.watch, false);
    one.outcome({
      time: toEpochMs(NOON + 20_000),
      decisionId: first.decisionId,
      requestId: undefined,
      status: 200,
      grpcStatus: 0,
      responseBytes: 10,
      requestBytes: undefined,
      durationMs,
      stage,
    });
    one.learn(request({ path, protocol: "grpc" }), first);
    t.equal(one.check(request({ at: NOON + 30_000, path, protocol: "grpc" }), POLICY).watch, held);
    t.equal(
      one.check(request({ at: NOON + 31_000, path: "/shop.Inventory/Get", protocol: "grpc" }), POLICY).watch,
      false,
    );
  });
}

t.test("the route noted longest ago is forgotten beyond a thousand", async (t) => {
  const routes = new LastingRoutes();
  for (let n = 0; n < 1_025; n++) routes.note("orders", `/r${n}`, "periodic", undefined);
  t.equal(routes.has("orders", "/r0"), false);
  t.equal(routes.has("orders", "/r1"), true);
  t.equal(routes.has("other", "/r1"), false);
});
