/** Tests of the serving process: how policy reaches it, what a restart begins with, and what is shown of it. */

import { once } from "node:events";
import { closeSync, ftruncateSync, mkdirSync, openSync, renameSync, writeFileSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t, { type Test } from "tap";
import { runCommand, type SidecarProcess, startSidecarProcess } from "../../scripts/demo/sidecar.ts";
import { DAY_MS, makeBundle, makeSigner } from "../bundle/sync/bundles.ts";
import { checkBytes, checkOnce } from "../support/check-client.ts";
import { command } from "../support/command.ts";
import { eventually, metric, readiness } from "../support/guarded.ts";

const folder = await mkdtemp(join(tmpdir(), "sallyport-policy-"));
t.teardown(() => rm(folder, { recursive: true, force: true }));
const signer = makeSigner();
const keys = join(folder, "keys.json");
writeFileSync(keys, signer.keyFile);

interface BundleServer {
  readonly url: string;
  /** What is served; `undefined`: status 500. */
  serve(bytes: Uint8Array | undefined): void;
}

async function bundleServer(t: Test): Promise<BundleServer> {
  let served: Uint8Array | undefined;
  const server = createServer((_request, response) => {
    if (served === undefined) response.writeHead(500).end();
    else response.end(served);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/shop.bundle`,
    serve: (bytes) => {
      served = bytes;
    },
  };
}

const shows = (sidecar: SidecarProcess, revision: string): Promise<true> =>
  eventually(async () => ((await readiness(sidecar)).policy_revision === revision ? true : undefined));
const events = async ({ log }: SidecarProcess, event: string): Promise<number> =>
  (await readFile(log, "utf8")).split(`"event":"${event}"`).length - 1;

t.test("policy from an address is taken, refused, shown, and there after a restart without the address", async (t) => {
  const server = await bundleServer(t);
  const flags = [
    ...["--policy", server.url, "--bundle-keys", keys, "--policy-poll", "1s"],
    ...["--state-dir", join(folder, "state"), "--labels", "team=shop", "--sidecar-id", "pod-7"],
    ...["--decision-log", join(folder, "decisions.log")],
  ];
  server.serve(await makeBundle(signer, { revision: 1 }));
  const first = await startSidecarProcess({ name: "url", folder, flags });
  t.match(await readiness(first), {
    ready: true,
    policy: "current",
    policy_revision: "shop:1",
    policy_freshness: "fresh",
    policy_expires: /Z$/,
    policy_confirmed: /Z$/,
  });
  server.serve(await makeBundle(signer, { revision: 2, spec: "{rules: [{name: all, decision: deny}]}" }));
  await shows(first, "shop:2");
  t.match(await checkOnce(first.extAuthz, checkBytes({})), { status: { code: 7 } });
  server.serve(await makeBundle(makeSigner(), { revision: 3 }));
  await eventually(async () =>
    (await metric(first, "sallyport_policy_refusals_total", "ERR_BUNDLE_SIGNATURE")) > 0 ? true : undefined,
  );
  t.match(await readiness(first), { ready: true, policy: "latest refused, last good in force" });
  const doctor = await command([
    "doctor",
    "--api",
    first.api,
    "--streams-address",
    first.streams,
    ...flags.slice(0, 4),
  ]);
  t.match(doctor, { code: 1, out: /BAD {3}sidecar policy: latest refused, last good in force: .*keys of root 1/ });
  server.serve(undefined);
  await eventually(async () =>
    (await metric(first, "sallyport_policy_source_failures_total", "url")) > 0 ? true : undefined,
  );
  t.equal(await metric(first, "sallyport_policy_revision"), 2);
  t.ok(await metric(first, "sallyport_policy_state_writes_total", "written"));
  t.equal(await events(first, "policy.refused"), 1, "told once");
  const [line = ""] = (await readFile(join(folder, "decisions.log"), "utf8")).split("\n");
  t.match(JSON.parse(line), {
    labels: { team: "shop", id: "pod-7" },
    bundles: { shop: { revision: "2", freshness: "fresh" } },
  });
  await first.kill();

  const second = await startSidecarProcess({ name: "restarted", folder, flags });
  t.teardown(() => second.stop());
  t.match(await readiness(second), { ready: true, policy_revision: "shop:2" }, "at once, from disk");
  t.equal(await metric(second, "sallyport_policy_confirmed_timestamp_seconds"), 0, "not confirmed yet");
  server.serve(await makeBundle(signer, { revision: 1 }));
  await eventually(async () =>
    (await metric(second, "sallyport_policy_refusals_total", "ERR_BUNDLE_ROLLBACK")) > 0 ? true : undefined,
  );
  t.equal((await readiness(second)).policy_revision, "shop:2", "an older one is refused after a restart too");
});

t.test("without any policy nothing starts, unless the shipped one may stand in, not ready", async (t) => {
  const server = await bundleServer(t);
  const flags = ["--policy", server.url, "--bundle-keys", keys, "--policy-poll", "1s", "--policy-wait", "200ms"];
  const { code, err } = await runCommand(["serve", ...flags, "--ext-authz-address", "127.0.0.1:0"]);
  t.equal(code, 1);
  t.match(err, /no policy within 200 ms \(policy-wait\).*got 500.*ERR_BUNDLE_UNREACHABLE/);
  const sidecar = await startSidecarProcess({
    name: "shipped",
    folder,
    flags: [...flags, "--policy-missing", "shipped"],
  });
  t.teardown(() => sidecar.stop());
  t.match(await readiness(sidecar), {
    ready: false,
    policy: "none yet, the shipped one is in force",
    policy_freshness: "stale",
  });
  t.match(await checkOnce(sidecar.extAuthz, checkBytes({})), {
    status: { code: 0 },
    dynamicMetadata: { policy_freshness: "stale" },
  });
  server.serve(await makeBundle(signer, { revision: 1 }));
  await eventually(async () => ((await readiness(sidecar)).ready === true ? true : undefined));
});

t.test("with a torn saved copy and a source that is away, each is told as what it is", async (t) => {
  const server = await bundleServer(t);
  const state = join(folder, "torn-state");
  mkdirSync(join(state, "policy"), { recursive: true });
  writeFileSync(join(state, "policy/last-good.bundle"), "torn");
  const flags = ["--policy", server.url, "--bundle-keys", keys, "--state-dir", state, "--policy-wait", "200ms"];
  const { code, err } = await runCommand(["serve", ...flags, "--ext-authz-address", "127.0.0.1:0"]);
  t.equal(code, 1);
  t.match(err, /"policy\.refused".*last-good\.bundle.*"the saved copy of the last good policy cannot be used/);
  t.match(err, /"policy\.unreachable".*no policy has been in force yet; asked again/);
  t.match(err, /\(policy-wait\), and the saved copy cannot be used \([\s\S]*last-good\.bundle: [\s\S]*\): .*got 500/);
  t.notMatch(err, /kept the last good policy/);
});

t.test("an unsigned file stops the start once keys are configured", async (t) => {
  const policy = join(folder, "unsigned.yaml");
  writeFileSync(policy, "apiVersion: sallyport.dev/v1\nkind: Policy\nmetadata: {name: p}\n");
  const { code, err } = await runCommand(["serve", "--policy", policy, "--bundle-keys", keys, "--policy-wait", "0s"]);
  t.equal(code, 1);
  t.match(err, /expected a signed bundle, because keys are configured.*ERR_BUNDLE_SIGNATURE/s);
});

t.test("a bundle past its time decides on, or denies where the operator wants it so", async (t) => {
  const server = await bundleServer(t);
  const state = join(folder, "expired");
  mkdirSync(join(state, "policy"), { recursive: true });
  const issuedAtMs = Date.now() - 2 * DAY_MS;
  const old = await makeBundle(signer, { revision: 4, issuedAtMs, expiresAtMs: issuedAtMs + DAY_MS });
  writeFileSync(join(state, "policy", "last-good.bundle"), old);
  const flags = ["--policy", server.url, "--bundle-keys", keys, "--state-dir", state];
  const keeping = await startSidecarProcess({ name: "keep", folder, flags });
  t.match(await readiness(keeping), { ready: true, policy_revision: "shop:4", policy_freshness: "expired" });
  t.match(await checkOnce(keeping.extAuthz, checkBytes({})), {
    status: { code: 0 },
    dynamicMetadata: { policy_freshness: "expired" },
  });
  t.equal(await metric(keeping, "sallyport_policy_freshness", "expired"), 1);
  await keeping.stop();
  const denying = await startSidecarProcess({ name: "deny", folder, flags: [...flags, "--policy-on-expiry", "deny"] });
  t.teardown(() => denying.stop());
  t.match(await readiness(denying), { ready: false, policy_freshness: "expired" });
  t.match(await checkOnce(denying.extAuthz, checkBytes({})), { status: { code: 7 } });
});

t.test("a folder of bundles: the highest good one counts, and what a file turns into is bounded", async (t) => {
  const bundles = join(folder, "bundles");
  mkdirSync(bundles);
  writeFileSync(join(bundles, "1.bundle"), await makeBundle(signer, { revision: 1 }));
  const sidecar = await startSidecarProcess({
    name: "folder",
    folder,
    policy: bundles,
    flags: ["--bundle-keys", keys],
  });
  t.teardown(() => sidecar.stop());
  t.match(await readiness(sidecar), { policy_revision: "shop:1" });
  writeFileSync(join(bundles, "junk.bundle"), "junk");
  writeFileSync(join(bundles, "2.bundle.new"), await makeBundle(signer, { revision: 2 }));
  renameSync(join(bundles, "2.bundle.new"), join(bundles, "2.bundle"));
  await shows(sidecar, "shop:2");

  const path = join(folder, "one.bundle");
  writeFileSync(path, await makeBundle(signer, { revision: 5 }));
  const single = await startSidecarProcess({ name: "single", folder, policy: path, flags: ["--bundle-keys", keys] });
  t.teardown(() => single.stop());
  const sparse = openSync(`${path}.new`, "w");
  ftruncateSync(sparse, 1024 ** 3);
  closeSync(sparse);
  renameSync(`${path}.new`, path);
  await eventually(async () =>
    (await metric(single, "sallyport_policy_refusals_total", "ERR_BUNDLE_TOO_LARGE")) > 0 ? true : undefined,
  );
  t.match(await readiness(single), { ready: true, policy_revision: "shop:5" });
});
