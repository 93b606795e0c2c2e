import { join } from "node:path";
import t from "tap";
import { type SidecarProcess, startSidecarProcess } from "../../scripts/demo/sidecar.ts";
import { command } from "../support/command.ts";
import { eventually, readiness } from "../support/guarded.ts";
import { makeScene } from "./scene.ts";

t.test("three sidecars follow a publish, a canary by label and its promotion, and the fleet shows it", async (t) => {
  const scene = await makeScene(t);
  const control = await scene.control();
  const sidecars: SidecarProcess[] = [];
  t.teardown(async () => {
    for (const sidecar of sidecars) await sidecar.stop();
  });
  await control.fleet("publish", await scene.bundle({ revision: 1 }));
  for (const zone of ["a", "b", "c"]) {
    const state = join(scene.folder, `state-${zone}`);
    sidecars.push(
      await startSidecarProcess({
        name: zone,
        folder: scene.folder,
        flags: [
          ...["--control", control.url, "--control-token-file", join(scene.folder, "sidecar.token")],
          ...["--bundle-keys", join(scene.folder, "keys.json"), "--state-dir", state],
          ...["--sidecar-id", `shop-${zone}`, "--labels", `zone=${zone}`],
        ],
      }),
    );
  }
  const reach = (...wanted: string[]) =>
    eventually(async () => {
      const found = await Promise.all(sidecars.map(async (sidecar) => (await readiness(sidecar)).policy_revision));
      return JSON.stringify(found) === JSON.stringify(wanted) ? true : undefined;
    });
  await reach("shop:1", "shop:1", "shop:1");
  t.match(await control.fleet("status", "--wait", "1m"), { code: 0, out: /[123] sidecars/, err: "" });
  await control.fleet("canary", await scene.bundle({ revision: 2, spec: "{ mode: observe }" }), "--selector", "zone=b");
  await reach("shop:1", "shop:2", "shop:1");
  const trial = await eventually(async () => {
    const { code, out } = await control.fleet("status");
    return code === 0 && out.includes("3 sidecars") && /shop-b .*observe/.test(out) ? out : undefined;
  });
  t.match(trial, /^shop-a +default +shop:1 +shop:1 +enforce +fresh +current$/m);
  t.match(trial, /^shop-b +default +shop:2 +shop:2 +observe +fresh +current, canary$/m);
  t.equal((await control.fleet("promote")).code, 0);
  await reach("shop:2", "shop:2", "shop:2");
  await eventually(async () => {
    const { code, out } = await control.fleet("status", "--revision", "2");
    return code === 0 && out.includes("3 sidecars") ? true : undefined;
  });
});

t.test("settings are refused with their place and what was meant", async (t) => {
  const scene = await makeScene(t);
  const path = await scene.file(
    "bad.yaml",
    "adress: 127.0.0.1:0\nheartbeat: 1ms\ngrants:\n  - { spiffe: 'spiffe://a/b', roles: [oparator] }\n",
  );
  const ran = await command(["control", "--config", path, "--sidecars-max", "many"], {
    SALLYPORT_CONTROL_PLANE_TLS_CRT: "x",
    SALLYPORT_CONTROL_PLANE_NATS_REPLICAS: "9",
  });
  t.equal(ran.code, 1);
  for (const wanted of [
    /bad\.yaml:1:1 adress: expected a known key, got "adress"; did you mean "address"\?/,
    /bad\.yaml:2:12 heartbeat: expected/,
    /bad\.yaml:4:\d+ grants\[0\]\.roles\[0\]: .*did you mean "operator"\?/,
    /--sidecars-max: expected a whole number, got "many"/,
    /SALLYPORT_CONTROL_PLANE_TLS_CRT: unknown setting; did you mean SALLYPORT_CONTROL_PLANE_TLS_CERT\?/,
    /SALLYPORT_CONTROL_PLANE_NATS_REPLICAS: expected/,
    /bundle-keys: expected a key file/,
  ]) {
    t.match(ran.err, wanted);
  }
  const open = await command(["control", "--address", "0.0.0.0:9292", "--tokens", "t", "--insecure-unsigned-bundles"]);
  t.match(open.err, /0\.0\.0\.0:9292 is not loopback; expected tls-cert and tls-key/);
});
