/** Drives a sidecar whose policy is a mounted ConfigMap or Secret: every change counts at once, and bad ones change nothing. */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t, { type Test } from "tap";
import { type SidecarProcess, startSidecarProcess } from "../../scripts/demo/sidecar.ts";
import { makeBundle, makeSigner } from "../bundle/sync/bundles.ts";
import { checkBytes, checkClient } from "../support/check-client.ts";
import { eventually, readiness } from "../support/guarded.ts";
import { type Mounted, mountedObject } from "../support/kubelet.ts";

const folder = await mkdtemp(join(tmpdir(), "sallyport-mounted-"));
t.teardown(() => rm(folder, { recursive: true, force: true }));

const policy = (name: string, spec = "{}"): string =>
  `apiVersion: sallyport.dev/v1\nkind: Policy\nmetadata: { name: ${name} }\nspec: ${spec}\n`;

const LISTS = "{ lists: { addresses: [{ name: blocked, action: block, file: blocked.txt }] } }";

interface Scene {
  readonly mounted: Mounted;
  readonly sidecar: SidecarProcess;
  /** Resolves once a policy is in force, with what `/readyz` says then. */
  readonly inForce: (revision: RegExp | string) => Promise<Readonly<Record<string, unknown>>>;
  readonly decides: (address: string) => Promise<string>;
}

async function scene(
  t: Test,
  name: string,
  files: Readonly<Record<string, string | Uint8Array>>,
  path: (mount: string) => string,
  { mode = 0o644, flags = [] as readonly string[] } = {},
): Promise<Scene> {
  const mounted = mountedObject(join(folder, name, "mount"), files, mode);
  const sidecar = await startSidecarProcess({ name, folder, policy: path(mounted.folder), flags });
  const client = checkClient(sidecar.extAuthz);
  t.teardown(async () => {
    client.close();
    await sidecar.kill();
  });
  return {
    mounted,
    sidecar,
    inForce: (revision) =>
      eventually(async () => {
        const found = await readiness(sidecar);
        return new RegExp(revision).test(JSON.stringify(found)) ? found : undefined;
      }),
    decides: (address) => client.decision(checkBytes({ address })),
  };
}

t.test("a ConfigMap's new policy counts without a restart, with the list beside it", async (t) => {
  const files = { "policy.yaml": policy("one", LISTS), "blocked.txt": "192.0.2.1\n" };
  const { mounted, sidecar, decides } = await scene(t, "config-map", files, (mount) => join(mount, "policy.yaml"));
  const pid = sidecar.pid;
  t.equal(await decides("192.0.2.1"), "deny");
  t.equal(await decides("192.0.2.7"), "allow");
  mounted.update({ ...files, "blocked.txt": "192.0.2.7\n" });
  await eventually(async () => ((await decides("192.0.2.7")) === "deny" ? true : undefined));
  t.equal(await decides("192.0.2.1"), "allow");

  const before = (await readiness(sidecar)).policy_revision;
  mounted.update({ "policy.yaml": policy("two", "{ mode: nope }"), "blocked.txt": "" });
  await eventually(async () => (/refused/.test(String((await readiness(sidecar)).policy)) ? true : undefined));
  t.equal((await readiness(sidecar)).policy_revision, before, "the last good one stays");
  t.equal(await decides("192.0.2.7"), "deny");

  mounted.update({ "other.yaml": policy("lost") });
  await eventually(async () => (/refused/.test(String((await readiness(sidecar)).policy)) ? true : undefined));
  t.equal(await decides("192.0.2.7"), "deny", "a key that is gone changes nothing either");

  for (const name of ["three", "four", "five"]) mounted.update({ "policy.yaml": policy(name) });
  await eventually(async () => ((await decides("192.0.2.7")) === "allow" ? true : undefined));
  await eventually(async () => ((await readiness(sidecar)).policy === "current" ? true : undefined));
  t.equal(sidecar.pid, pid);
  process.kill(pid, 0); // throws when it is gone
});

t.test("a Secret with a signed bundle: a new one counts, one of other keys or an older one does not", async (t) => {
  const signer = makeSigner();
  const thief = makeSigner();
  const made = async (revision: number, by = signer, spec = "{}") => ({
    "shop.bundle": await makeBundle(by, { revision, spec }),
  });
  const keys = mountedObject(join(folder, "keys"), { "shop.keys": signer.keyFile });
  const { mounted, sidecar, inForce, decides } = await scene(
    t,
    "secret",
    await made(1),
    (mount) => join(mount, "shop.bundle"),
    {
      mode: 0o400,
      flags: ["--bundle-keys", join(keys.folder, "shop.keys"), "--state-dir", join(folder, "secret", "state")],
    },
  );
  await inForce("shop:1");
  mounted.update(
    await made(2, signer, '{ lists: { addresses: [{ name: b, action: block, ranges: ["192.0.2.0/24"] }] } }'),
  );
  await inForce("shop:2");
  t.equal(await decides("192.0.2.7"), "deny");
  mounted.update(await made(3, thief));
  await inForce("refused");
  t.match(await readiness(sidecar), { policy_revision: /shop:2/ });
  t.equal(await decides("192.0.2.7"), "deny");
  mounted.update(await made(3));
  await inForce("shop:3");
  mounted.update(await made(1));
  await inForce("refused");
  t.match(await readiness(sidecar), { policy_revision: /shop:3/ }, "an older one is no policy either");
  mounted.update(await made(4));
  await inForce("shop:4");
  t.equal(await decides("192.0.2.7"), "allow");
});

t.test("a mount may be named as a folder, in which policies come and go", async (t) => {
  const { mounted, decides } = await scene(t, "folder", { "policy.yaml": policy("one") }, (mount) => mount);
  t.equal(await decides("192.0.2.7"), "allow");
  mounted.update({ "policy.yaml": policy("two", LISTS), "blocked.txt": "192.0.2.7\n" });
  await eventually(async () => ((await decides("192.0.2.7")) === "deny" ? true : undefined));
});
