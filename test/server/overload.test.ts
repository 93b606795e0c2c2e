import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import t, { type Test } from "tap";
import { startSidecarProcess } from "../../scripts/demo/sidecar.ts";
import { type CheckClient, type Checked, checkBytes, checkClient } from "../support/check-client.ts";
import { eventually, metric } from "../support/guarded.ts";

const UNAVAILABLE = 14;
const folder = await mkdtemp(join(tmpdir(), "sallyport-overload-"));
t.teardown(() => rm(folder, { recursive: true, force: true }));

/** A sidecar that has judged one caller a moment ago, and a client of it. */
async function pressed(t: Test, name: string, flags: readonly string[]) {
  const sidecar = await startSidecarProcess({ name, folder, flags });
  const client = checkClient(sidecar.extAuthz);
  t.teardown(async () => {
    client.close();
    await sidecar.stop();
  });
  const known = checkBytes({ principal: "spiffe://td/known" });
  t.equal(await client.decision(known), "allow");
  return { sidecar, client, known };
}

/** Holds a process up while checks come in, as want of processor time does. */
async function whileHeldUp(
  pid: number,
  client: CheckClient,
  checks: readonly Uint8Array[],
): Promise<readonly Checked[]> {
  process.kill(pid, "SIGSTOP");
  const answers = checks.map((bytes) => client.send(bytes));
  await sleep(400);
  process.kill(pid, "SIGCONT");
  return Promise.all(answers);
}

const basisOf = (checked: Checked): unknown =>
  typeof checked === "number" ? checked : (checked.dynamicMetadata?.basis ?? "in full");

t.test("a session that was just judged is answered by what it stands at, a new one in full", async (t) => {
  const { sidecar, client, known } = await pressed(t, "standing", ["--decision-log", join(folder, "log")]);
  const fresh = checkBytes({ principal: "spiffe://td/fresh", address: "10.9.9.9" });
  const answers = await whileHeldUp(sidecar.pid, client, [known, fresh, known]);
  t.same(answers.map(basisOf), ["standing", "in full", "standing"]);
  t.equal(await metric(sidecar, "sallyport_shed_checks_total", 'how="standing"'), 2);
  t.equal(await client.decision(known), "allow", "and goes on as ever");
});

t.test("where the operator wants it so, overload is left to Envoy's failure mode", async (t) => {
  const { sidecar, client, known } = await pressed(t, "unavailable", ["--on-overload", "unavailable"]);
  t.same((await whileHeldUp(sidecar.pid, client, [known, known])).map(basisOf), [UNAVAILABLE, UNAVAILABLE]);
  t.equal(await metric(sidecar, "sallyport_shed_checks_total", 'how="unavailable"'), 2);
});

t.test("where the operator wants it so, everything is judged in full however late", async (t) => {
  const { sidecar, client, known } = await pressed(t, "judge", ["--on-overload", "judge"]);
  t.same((await whileHeldUp(sidecar.pid, client, [known, known])).map(basisOf), ["in full", "in full"]);
  t.equal(await metric(sidecar, "sallyport_shed_checks_total"), 0);
});

t.test("a check that waited longer than its own deadline is not judged any more", async (t) => {
  const { sidecar, client, known } = await pressed(t, "late", []);
  const answers = await whileHeldUp(sidecar.pid, client, [known, known]);
  t.same(answers.map(basisOf), ["standing", "standing"], "without a deadline nobody is late");
  process.kill(sidecar.pid, "SIGSTOP");
  const given = [client.send(known, 100), client.send(known, 100)];
  await sleep(400);
  process.kill(sidecar.pid, "SIGCONT");
  t.same(await Promise.all(given), [4, 4], "the client has given up");
  const late = () => metric(sidecar, "sallyport_shed_checks_total", 'how="late"');
  await eventually(async () => ((await late()) >= 2 ? true : undefined));
  t.equal(await late(), 2);
});
