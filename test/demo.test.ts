import { readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { playScenario } from "../scripts/demo/scenario.ts";
import { createWorld } from "../scripts/demo/world.ts";
import { loadPolicy } from "../src/bundle/load.ts";
import { playBack, type RecordedEvent } from "../src/check/recording.ts";
import type { Policy } from "../src/model/policy.ts";

/** The defaults of `principals-max` and `sessions-max`. */
const BOUNDS = { principalsMax: 10_000, sessionsMax: 20_000 };

t.test("the demo's story goes as told, and its recording plays back to the same verdicts", async (t) => {
  const world = await createWorld(() => {}, true);
  t.teardown(() => world.stop());
  const policies = new Map<string, Policy>();
  const note = async (): Promise<void> => {
    const loaded = await loadPolicy(join(world.folder, "policy.yaml"));
    t.ok(loaded.ok);
    if (loaded.ok) policies.set(loaded.policy.revision, loaded.policy);
  };
  await note();
  const steps = await playScenario(world, () => {});
  await note();
  for (const { title, expected, real } of steps) t.equal(real, expected, title);
  t.ok(steps.length >= 17);
  for (const name of ["orders", "inventory", "ledger"]) {
    const events = readFileSync(join(world.folder, `${name}.recording`), "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as RecordedEvent);
    const { checks, differences } = playBack(events, policies, BOUNDS);
    t.ok(checks > 0, name);
    t.same(differences, [], name);
  }
});
