import t from "tap";
import { findNats } from "../../scripts/find-nats.ts";
import { eventually } from "../support/guarded.ts";
import { skipUnless } from "../support/skip.ts";
import { startNats } from "./nats.ts";
import { makeScene, startClient } from "./scene.ts";

const found = await findNats({ install: true }).catch((error: Error) => error);
const path = found instanceof Error ? "" : found.path;
const needed = skipUnless(!(found instanceof Error), found instanceof Error ? found.message : "");

t.test("two control planes share everything; NATS may go and come back", needed, async (t) => {
  const scene = await makeScene(t);
  const nats = await startNats(path, scene.folder);
  t.teardown(() => nats.stop());
  const one = await scene.control(["--nats-servers", nats.url]);
  const two = await scene.control(["--nats-servers", nats.url]);
  const ready = (health: string) =>
    eventually(async () => ((await fetch(`http://${health}/readyz`)).ok ? true : undefined));
  await Promise.all([ready(one.health), ready(two.health)]);
  const store = async (health: string): Promise<string> =>
    ((await (await fetch(`http://${health}/readyz`)).json()) as { store: string }).store;

  t.match(await one.fleet("publish", await scene.bundle({ revision: 1 })), { code: 0, err: "" });
  const here = startClient(t, scene, one.url, { sidecarId: "here" });
  const there = startClient(t, scene, two.url, { sidecarId: "there" });
  const reach = (revision: number) =>
    eventually(async () =>
      here.facts?.revision === revision && there.facts?.revision === revision ? true : undefined,
    );
  await reach(1);
  for (const control of [one, two]) {
    await eventually(async () => ((await control.fleet("status")).out.includes("2 sidecars") ? true : undefined));
  }
  t.match(await two.fleet("publish", await scene.bundle({ revision: 1, spec: "{ mode: observe }" })), {
    code: 1,
    err: /ERR_BUNDLE_ROLLBACK/,
  });

  await nats.stop();
  await eventually(async () =>
    (await store(one.health)) !== "ok" && (await store(two.health)) !== "ok" ? true : undefined,
  );
  t.ok((await fetch(`http://${one.health}/readyz`)).ok, "it keeps serving what it has");
  t.match(await (await fetch(`http://${one.health}/metrics`)).text(), /^sallyport_control_store_reachable 0$/m);
  t.match(await one.fleet("publish", await scene.bundle({ revision: 2 })), {
    code: 1,
    err: /nothing was changed: NATS.*\(ERR_CONTROL\)/,
  });
  const late = startClient(t, scene, two.url, { sidecarId: "late" });
  await eventually(async () => (late.facts?.revision === 1 ? true : undefined));

  await nats.start();
  await eventually(async () =>
    (await store(one.health)) === "ok" && (await store(two.health)) === "ok" ? true : undefined,
  );
  t.equal((await two.fleet("publish", await scene.bundle({ revision: 3 }))).code, 0);
  await reach(3);
  await eventually(async () => (late.facts?.revision === 3 ? true : undefined));

  const both = await Promise.all([
    one.fleet("canary", await scene.bundle({ revision: 4 }), "--share", "50"),
    two.fleet("canary", await scene.bundle({ revision: 5 }), "--share", "50"),
  ]);
  t.equal(both.filter(({ code }) => code === 0).length, 1, "of two changes at once, one is made");
  await one.kill();
  await eventually(async () => (here.errors.length > 0 ? true : undefined));
  t.ok(there.confirmed > 0);
});

t.test("without NATS at its start it waits, is not ready, and sends sidecars away", async (t) => {
  const scene = await makeScene(t);
  const control = await scene.control(["--nats-servers", "nats://127.0.0.1:1"]);
  const answer = await fetch(`http://${control.health}/readyz`);
  t.equal(answer.status, 503);
  const client = startClient(t, scene, control.url);
  t.match(await eventually(async () => client.errors[0]), { message: /Unavailable: the store was not reached yet/ });
  t.match(await control.fleet("publish", await scene.bundle({ revision: 1 })), { code: 1 });
});
