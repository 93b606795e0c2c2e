import fc from "fast-check";
import { Counter, Histogram, Registry } from "prom-client";
import t from "tap";
import type { RequestFacts } from "../../src/model/facts.ts";
import type { Verdict } from "../../src/model/verdict.ts";
import { BucketCounts } from "../../src/telemetry/bucket-counts.ts";
import { Metrics } from "../../src/telemetry/metrics.ts";

const STATS = { principals: 0, sessions: 0, locks: 0, evictedPrincipals: 0, evictedSessions: 0 };

t.test("checks that were gathered are shown as the library shows those it is told one by one", async (t) => {
  const metrics = new Metrics(
    () => STATS as never,
    () => 0,
  );
  const registry = new Registry();
  const told = new Counter({
    name: "sallyport_checks_total",
    help: "Check calls answered, by what was decided and what was carried out.",
    labelNames: ["decision", "enforced", "protocol"],
    registers: [registry],
  });
  const shown = (): Promise<string> => metrics.registry.getSingleMetricAsString("sallyport_checks_total");
  const same = async (when: string): Promise<void> => {
    t.equal(await shown(), await registry.getSingleMetricAsString("sallyport_checks_total"), when);
  };
  const check = (decision: "allow" | "deny", enforced: "allow" | "deny", protocol: "http" | "grpc"): void => {
    told.inc({ decision, enforced, protocol });
    const verdict = { decision: { kind: decision }, enforced, score: 3, answered: false };
    metrics.verdict({ protocol } as RequestFacts, verdict as unknown as Verdict, 80);
  };
  await same("before the first check");
  check("deny", "allow", "grpc");
  check("allow", "allow", "http");
  check("deny", "allow", "grpc");
  await same("after some");
  await same("when nothing came in between");
  check("allow", "allow", "http");
  check("deny", "deny", "http");
  await same("after more");
  t.equal(metrics.checksTotal, 5);
});

t.test("a histogram that is counted here is shown as the library's", async (t) => {
  const values = fc.array(fc.oneof(fc.double({ min: 0, max: 100, noNaN: true }), fc.constantFrom(0, 1, 5, 10, 11)));
  await fc.assert(
    fc.asyncProperty(values, async (observed) => {
      const options = { name: "sallyport_things", help: "Things.", buckets: [1, 5, 10] };
      const [own, library] = [new Registry(), new Registry()];
      const counts = new BucketCounts(options, own);
      const histogram = new Histogram({ ...options, registers: [library] });
      for (const value of observed) {
        counts.observe(value);
        histogram.observe(value);
      }
      t.equal(await own.metrics(), await library.metrics());
    }),
    { numRuns: 50 },
  );
});
