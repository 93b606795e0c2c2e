/** Drives pods from a Kubernetes API through a control plane, as a process, to sidecars and their decisions. */

import { join } from "node:path";
import t, { type Test } from "tap";
import { type SidecarProcess, startSidecarProcess } from "../../../scripts/demo/sidecar.ts";
import { createLine } from "../../../src/check/line.ts";
import { ADDRESS_GRACE_MS, WORKLOADS_KEPT_MS } from "../../../src/check/workload-table.ts";
import { FleetWorkloads } from "../../../src/server/fleet-workloads.ts";
import { checkBytes, checkClient } from "../../support/check-client.ts";
import { eventually, metric, readiness } from "../../support/guarded.ts";
import { countingBytes, POLICY, request } from "../../support/requests.ts";
import { type Control, makeScene, type Scene, startClient } from "../scene.ts";
import { type FakeApi, fakeApi, pod } from "./fake-api.ts";

const GOOD = `sha256:${"c".repeat(64)}`;
const BAD = `sha256:${"d".repeat(64)}`;
const SPEC = `{ posture: { forbid: [{ name: image, fact: image_digest, in: ["${BAD}"] }] } }`;
const ORDERS = "spiffe://shop.example/ns/shop/sa/orders";
const REPORTS = "spiffe://shop.example/ns/shop/sa/reports";

const TOKEN = "kubernetes-token-0123456789";

async function watching(t: Test, api: FakeApi): Promise<{ scene: Scene; control: Control }> {
  const scene = await makeScene(t);
  const token = await scene.file("kubernetes.token", TOKEN);
  const control = await scene.control([
    ...["--state-dir", join(scene.folder, "control"), "--kubernetes", "--kubernetes-api", api.url],
    ...["--kubernetes-token-file", token, "--trust-domain", "shop.example", "--kubernetes-labels", "tier"],
  ]);
  const { code, err } = await control.fleet("publish", await scene.bundle({ revision: 1, spec: SPEC }));
  if (code !== 0) throw new Error(err);
  return { scene, control };
}

const orders = (more: Partial<Parameters<typeof pod>[0]> = {}) =>
  pod({ name: "orders-1", ip: "10.0.0.1", digest: GOOD, ...more });
const reports = (more: Partial<Parameters<typeof pod>[0]> = {}) =>
  pod({ name: "reports-1", serviceAccount: "reports", ip: "10.0.0.2", digest: GOOD, ...more });

t.test("facts of pods decide at a sidecar, follow the cluster, and are said to be stale when they are", async (t) => {
  const api = await fakeApi(t, { token: () => TOKEN });
  api.set(orders(), reports());
  const { scene, control } = await watching(t, api);
  const sidecar: SidecarProcess = await startSidecarProcess({
    name: "one",
    folder: scene.folder,
    flags: [
      ...["--control", control.url, "--control-token-file", join(scene.folder, "sidecar.token")],
      ...["--bundle-keys", join(scene.folder, "keys.json")],
    ],
  });
  const client = checkClient(sidecar.extAuthz);
  t.teardown(async () => {
    client.close();
    await sidecar.kill();
  });
  const decides = async (principal: string, address: string): Promise<string> =>
    client.decision(checkBytes({ principal, address }));
  const comes = (decision: string, principal: string, address: string) =>
    eventually(async () => ((await decides(principal, address)) === decision ? true : undefined));
  await eventually(async () => ((await readiness(sidecar)).workloads === "fresh" ? true : undefined));
  t.match(await readiness(sidecar), { pods: "2" });
  t.equal(await decides(ORDERS, "10.0.0.1"), "allow");

  api.set(pod({ name: "orders-2", ip: "10.0.0.3", digest: BAD }));
  await comes("deny", ORDERS, "10.0.0.3");
  t.equal(await decides(ORDERS, "10.0.0.1"), "allow", "its neighbour has another image");
  t.equal(await decides(ORDERS, "10.9.9.9"), "allow", "they do not agree: nothing is said of the account");
  api.delete("uid-shop-orders-1");
  await comes("deny", ORDERS, "10.9.9.9");
  t.equal(await decides(REPORTS, "10.0.0.2"), "allow");
  api.set(pod({ name: "orders-2", ip: "10.0.0.3", digest: GOOD }));
  await comes("allow", ORDERS, "10.0.0.3");

  t.equal(await metric(sidecar, "sallyport_pods"), 2);
  t.equal(await metric(sidecar, "sallyport_pods_stale"), 0);
  const status = (await (await fetch(`http://${control.health}/readyz`)).json()) as Record<string, string>;
  t.match(status, { kubernetes: "watching", pods: "2" });
  t.match(await (await fetch(`http://${control.health}/metrics`)).text(), /^sallyport_control_pod_lists_total 1$/m);

  api.fail(...Array.from({ length: 1_000 }, () => ({ status: 503 })));
  api.cut();
  await eventually(async () => ((await readiness(sidecar)).workloads === "stale" ? true : undefined));
  t.equal(await metric(sidecar, "sallyport_pods_stale"), 1);
  t.equal(await decides(ORDERS, "10.0.0.3"), "allow", "the policy decides on");
  t.match((await (await fetch(`http://${control.health}/readyz`)).json()) as object, { kubernetes: /503/ });
  t.match(control.log(), /"event":"kubernetes.failed"/);
  t.notMatch(control.log(), TOKEN);
  t.equal(await control.stop(), 0);
});

t.test("the pod behind an address is named where its account is another; what is missed is made up for", async (t) => {
  const api = await fakeApi(t, { token: () => TOKEN });
  api.set(orders(), reports());
  const { scene, control } = await watching(t, api);
  let aheadMs = 0;
  const now = (): number => Date.now() + aheadMs;
  const line = createLine({ principalsMax: 100, sessionsMax: 100, random: countingBytes() });
  const views: string[] = [];
  const workloads = new FleetWorkloads({ line, now, onView: (view, pods) => views.push(`${view} ${pods}`) });
  const client = startClient(t, scene, control.url, { onWorkloads: workloads });
  const asked = (principal: string, address: string) =>
    line
      .preview(request({ at: now(), principal, address }), POLICY)
      .reasons.find(({ signal }) => signal === "posture.other_workload")?.seen;
  await eventually(async () => (workloads.view === "fresh" ? true : undefined));
  t.equal(asked(ORDERS, "10.0.0.2"), undefined, "not known for long enough");
  aheadMs += ADDRESS_GRACE_MS;
  const says = `10.0.0.2 is pod shop/reports-1 of ${REPORTS}`;
  t.equal(await eventually(async () => asked(ORDERS, "10.0.0.2")), says);
  t.equal(asked(REPORTS, "10.0.0.2"), undefined, "its own");

  const known = workloads.state;
  const lists = api.asked.filter((one) => one.includes("limit=")).length;
  client.close();
  await eventually(async () => (workloads.view === "stale" ? true : undefined)); // nobody tells anything any more
  t.equal(asked(ORDERS, "10.0.0.2"), undefined);
  api.set(pod({ name: "mail-1", serviceAccount: "mail", ip: "10.0.0.7" }));
  api.delete("uid-shop-reports-1");
  startClient(t, scene, control.url, { onWorkloads: workloads });
  await eventually(async () => (workloads.view === "fresh" && workloads.state !== known ? true : undefined));
  t.equal(api.asked.filter((one) => one.includes("limit=")).length, lists, "sidecars cost the API nothing");
  aheadMs += ADDRESS_GRACE_MS;
  const mail = "10.0.0.7 is pod shop/mail-1 of spiffe://shop.example/ns/shop/sa/mail";
  t.equal(await eventually(async () => asked(ORDERS, "10.0.0.7")), mail);
  t.match(views, ["fresh 2", "stale 2", "fresh 2"]);
  t.same(
    client.errors.filter(({ code }) => code !== "ERR_BUNDLE_UNREACHABLE"),
    [],
  );
});

t.test(
  "a control plane that comes back tells everything anew; one that watches nothing leaves pods to be forgotten",
  async (t) => {
    const api = await fakeApi(t, { token: () => TOKEN });
    api.set(orders());
    const { scene, control } = await watching(t, api);
    let aheadMs = 0;
    const line = createLine({ principalsMax: 100, sessionsMax: 100, random: countingBytes() });
    const workloads = new FleetWorkloads({ line, now: () => Date.now() + aheadMs, onView: () => {} });
    startClient(t, scene, control.url, { onWorkloads: workloads });
    await eventually(async () => (workloads.view === "fresh" ? true : undefined));
    const { state } = workloads;
    await control.kill();
    api.set(orders({ ip: "10.0.0.9" }));
    const port = Number(new URL(control.url).port);
    const args = ["--state-dir", join(scene.folder, "control")];
    const token = join(scene.folder, "kubernetes.token");
    const kube = [
      "--kubernetes",
      "--kubernetes-api",
      api.url,
      "--kubernetes-token-file",
      token,
      "--trust-domain",
      "shop.example",
    ];
    const back = await scene.control([...args, ...kube], { port });
    await eventually(async () => (workloads.state !== state && workloads.view === "fresh" ? true : undefined));
    t.equal(
      line.preview(request({ at: Date.now(), principal: ORDERS, address: "10.0.0.9" }), POLICY).decision.kind,
      "allow",
    );
    await back.kill();
    await scene.control(args, { port });
    await eventually(async () => (workloads.view === "stale" ? true : undefined));
    aheadMs += WORKLOADS_KEPT_MS + 1;
    workloads.look();
    t.equal(workloads.view, "none");
    t.equal(line.workloads.size, 0);
    t.equal(workloads.state, "", "it will ask for everything");
  },
);
