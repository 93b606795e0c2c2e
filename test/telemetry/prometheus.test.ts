import { collectDefaultMetrics } from "prom-client";
import t from "tap";
import { collectProcessMetrics, Registry } from "../../src/telemetry/prometheus.ts";

/** Names, kinds and help texts, without what was measured. */
async function described(registry: Registry): Promise<readonly string[]> {
  return (await registry.metrics()).split("\n").filter((line) => line.startsWith("#"));
}

t.test("what is told of the process is what the library's own collector tells, in its order", async (t) => {
  const [own, library] = [new Registry(), new Registry()];
  collectProcessMetrics(own, "sallyport_");
  collectDefaultMetrics({ register: library, prefix: "sallyport_" });
  t.same(await described(own), await described(library));
});

t.test("processor time is what the process has used since", async (t) => {
  const registry = new Registry();
  const before = process.cpuUsage();
  collectProcessMetrics(registry, "");
  await registry.metrics();
  while (process.cpuUsage(before).user < 50_000) Buffer.alloc(1_000_000);
  const text = await registry.metrics();
  const after = process.cpuUsage(before);
  const seconds = (kind: string): number =>
    Number(new RegExp(`^process_cpu_${kind}seconds_total (.*)$`, "m").exec(text)?.[1]);
  t.ok(seconds("user_") > 0.02 && seconds("user_") <= after.user / 1e6, `${seconds("user_")} s`);
  t.ok(seconds("") <= (after.user + after.system) / 1e6 && seconds("") >= seconds("user_"));
});
