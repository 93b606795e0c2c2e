import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { mkdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t, { type Test } from "tap";
import { createLine } from "../../src/check/line.ts";
import { toEpochMs } from "../../src/model/units.ts";
import { startSaving } from "../../src/server/saving.ts";
import { StateFiles } from "../../src/server/state-files.ts";
import type { Logger } from "../../src/telemetry/log.ts";
import { countingBytes, NOON, POLICY, request } from "../support/requests.ts";

const HOUR = 3_600_000;
const NOW = toEpochMs(NOON);

function saves(t: Test, line: Pick<ReturnType<typeof lineOf>, "snapshot" | "snapshotSteps">) {
  const folder = mkdtempSync(join(tmpdir(), "sallyport-saving-"));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const state = new StateFiles(folder);
  const results: string[] = [];
  const told: unknown[] = [];
  const log = { error: (fields: unknown) => told.push(fields) } as unknown as Logger;
  const saving = startSaving({
    line,
    state,
    intervalMs: HOUR,
    now: () => NOON,
    log,
    onSaved: (result) => results.push(result),
  });
  t.teardown(() => saving.close());
  return { folder, file: join(folder, "baselines.state"), saving, results, told };
}

function lineOf(callers: number) {
  const line = createLine({ principalsMax: 500, sessionsMax: 500, random: countingBytes() });
  for (let i = 0; i < callers; i++) {
    const facts = request({ at: NOON + i, principal: `spiffe://td/${i}`, credential: `${i}` });
    line.learn(facts, line.check(facts, POLICY));
  }
  return line;
}

t.test("a snapshot in slices is the one made at once, and others have their turn in between", async (t) => {
  const line = lineOf(300);
  const { saving, file, results } = saves(t, line);
  let turns = 0;
  let saved = false;
  const turn = (): void => {
    turns++;
    if (!saved) setImmediate(turn);
  };
  setImmediate(turn);
  await saving.save();
  saved = true;
  t.same(readFileSync(file), Buffer.from(line.snapshot(NOW)));
  t.same(results, ["written"]);
  t.ok(turns > 2, `${turns} turns`);
});

t.test("there are never two at a time", async (t) => {
  const line = lineOf(5);
  let made = 0;
  const counted = {
    snapshot: () => line.snapshot(NOW),
    snapshotSteps: () => {
      made++;
      return line.snapshotSteps(NOW);
    },
  };
  const { saving, results } = saves(t, counted);
  await Promise.all([saving.save(), saving.save(), saving.save()]);
  t.equal(made, 1);
  await saving.save();
  t.equal(made, 2);
  t.same(results, ["written", "written"]);
});

t.test(
  "one that fails between two slices leaves the last good file, is told and counted, and the next may succeed",
  async (t) => {
    const line = lineOf(5);
    let broken = false;
    function* breaking() {
      yield Buffer.from("half of it");
      throw new Error("no more");
    }
    const sometimes = {
      snapshot: () => line.snapshot(NOW),
      snapshotSteps: () => (broken ? breaking() : line.snapshotSteps(NOW)),
    };
    const { saving, file, results, told } = saves(t, sometimes);
    await saving.save();
    const good = readFileSync(file);
    broken = true;
    await saving.save();
    t.same(readFileSync(file), good);
    t.match(told, [{ event: "state.unwritable" }]);
    broken = false;
    await saving.save();
    t.same(results, ["written", "failed", "written"]);
  },
);

t.test("at the end the one under way is given up for a whole last one", async (t) => {
  const line = lineOf(5);
  function* endless() {
    for (;;) yield Buffer.from("more and more");
  }
  const { saving, file, results } = saves(t, { snapshot: () => line.snapshot(NOW), snapshotSteps: endless });
  const underWay = saving.save();
  await new Promise(setImmediate);
  await saving.close();
  await underWay;
  t.same(readFileSync(file), Buffer.from(line.snapshot(NOW)));
  t.same(results, ["written"]);
  await saving.save();
  t.same(results, ["written"], "nothing comes after the end");
});

t.test("a folder that is gone is told and counted for both ways of writing", async (t) => {
  const { saving, folder, results, told } = saves(t, lineOf(2));
  await rm(folder, { recursive: true });
  await saving.save();
  await saving.close();
  t.same(results, ["failed", "failed"]);
  t.match(told, [{ event: "state.unwritable", code: "ERR_STATE_UNWRITABLE" }, { code: "ERR_STATE_UNWRITABLE" }]);
  await mkdir(folder);
});
