/** Tests that changes on disk are found and told once, and that the last good policy stays. */

import { mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t, { type Test } from "tap";
import type { CurrentPolicy } from "../../../src/bundle/current.ts";
import { FileSource, type FileSourceOptions } from "../../../src/bundle/sync/file-source.ts";
import { mountedObject } from "../../support/kubelet.ts";
import { type KeeperScene, keeperScene } from "./scene.ts";

function policy(name: string, spec = ""): string {
  return `apiVersion: sallyport.dev/v1\nkind: Policy\nmetadata: { name: ${name} }\n${spec}`;
}

interface Scene {
  readonly path: string;
  readonly folder: string;
  readonly current: CurrentPolicy;
  readonly watcher: FileSource;
  /** What was told since the first policy, in order. */
  readonly told: string[];
  readonly keeping: KeeperScene;
  /** Fulfilled when something more is told. */
  readonly next: () => Promise<void>;
}

const BYTES_MAX = 1_000_000;
/** Never looks by itself: a look is asked for. */
const ASKED: FileSourceOptions = { bytesMax: BYTES_MAX, pollMs: 2 ** 31 - 1, settleMs: 2 ** 31 - 1 };

async function scene(
  t: Test,
  files: Parameters<Test["testdir"]>[0],
  options = ASKED,
  name = "policy.yaml",
): Promise<Scene> {
  const folder = t.testdir(files);
  return watching(t, join(folder, name), options, folder);
}

async function watching(t: Test, path: string, options: FileSourceOptions, folder: string): Promise<Scene> {
  let wake = (): void => {};
  const told: string[] = [];
  const shown = (text: string): string => text.replaceAll(`${folder}/`, "");
  const keeping = keeperScene({
    say: (text) => {
      told.push(shown(text));
      wake();
    },
  });
  const watcher = new FileSource(path, options);
  // The watcher's own timers do not keep a process alive.
  const awake = setInterval(() => {}, 2 ** 31 - 1);
  t.teardown(() => {
    clearInterval(awake);
    watcher.close();
  });
  watcher.start(keeping.keeper);
  await watcher.check();
  told.length = 0;
  const next = (): Promise<void> => new Promise((resolve) => (wake = resolve));
  return { path, folder, current: keeping.current, watcher, told, keeping, next };
}

t.test("a new policy takes the place of the old one", async (t) => {
  const { path, current, watcher, told } = await scene(t, { "policy.yaml": policy("one") });
  await watcher.check();
  t.same(told, [], "nothing has changed");
  writeFileSync(path, policy("two"));
  await watcher.check();
  await watcher.check();
  t.same(told, ["in force two"], "told once");
  t.equal(current.get().name, "two");
});

t.test("a bad policy is told with its problems, and the last good one stays", async (t) => {
  const { path, current, watcher, told } = await scene(t, { "policy.yaml": policy("one") });
  writeFileSync(path, policy("two", "spec: { mode: nope }\n"));
  await watcher.check();
  await watcher.check();
  t.same(told, ['refused ERR_POLICY_INVALID policy.yaml:4:15 spec.mode: expected one of enforce, observe, got "nope"']);
  t.equal(current.get().name, "one");
  writeFileSync(path, policy("three"));
  await watcher.check();
  t.equal(current.get().name, "three");
});

t.test("a policy that is gone leaves the last good one in force, until it is back", async (t) => {
  const { path, current, watcher, told, keeping } = await scene(t, { "policy.yaml": policy("one") });
  rmSync(path);
  await watcher.check();
  writeFileSync(path, policy("one"));
  await watcher.check();
  t.same(told, [
    "refused ERR_POLICY_UNREADABLE policy.yaml: expected a file that can be read, got no such file",
    "settled",
  ]);
  t.equal(current.get().name, "one");
  t.equal(keeping.keeper.status().refusal, undefined, "all is well again");
});

t.test("a change of a file that the policy names counts as much", async (t) => {
  const spec = "spec: { lists: { addresses: [{ name: a, file: list.txt }] } }\n";
  const { folder, current, watcher, told } = await scene(t, {
    "policy.yaml": policy("one", spec),
    "list.txt": "192.0.2.1\n",
  });
  writeFileSync(join(folder, "list.txt"), "192.0.2.7\n");
  await watcher.check();
  t.equal(current.get().addresses.lookup("192.0.2.7")?.list, "a");
  writeFileSync(join(folder, "list.txt"), "x\n");
  await watcher.check();
  t.equal(current.get().addresses.lookup("192.0.2.7")?.list, "a", "the last good list stays");
  t.same(told, ["in force one", 'refused ERR_POLICY_INVALID list.txt:1: expected an address or a CIDR range, got "x"']);
});

t.test("a file that was written again with the same content is not told", async (t) => {
  const { path, watcher, told } = await scene(t, { "policy.yaml": policy("one") });
  writeFileSync(`${path}.new`, policy("one"));
  renameSync(`${path}.new`, path);
  await watcher.check();
  t.same(told, []);
});

t.test("the swap of links by which Kubernetes changes a ConfigMap is found", async (t) => {
  const { folder, current, watcher } = await scene(t, {
    ...configMap("one"),
    "policy.yaml": t.fixture("symlink", "..data/policy.yaml"),
    "..data": t.fixture("symlink", "..one"),
  });
  mkdirSync(join(folder, "..two"));
  writeFileSync(join(folder, "..two/policy.yaml"), policy("two"));
  symlinkSync("..two", join(folder, "..data_tmp"));
  renameSync(join(folder, "..data_tmp"), join(folder, "..data"));
  await watcher.check();
  t.equal(current.get().name, "two");
});

function configMap(name: string): Record<string, Record<string, string>> {
  return { [`..${name}`]: { "policy.yaml": policy(name) } };
}

t.test("changes are found by looking now and then", async (t) => {
  const { path, current, next } = await scene(
    t,
    { "policy.yaml": policy("one") },
    { bytesMax: BYTES_MAX, pollMs: 5, settleMs: 2 ** 31 - 1 },
  );
  const told = next();
  writeFileSync(path, policy("two"));
  await told;
  t.equal(current.get().name, "two");
});

t.test("changes are found when the system reports them", async (t) => {
  const { path, current, next } = await scene(
    t,
    { "policy.yaml": policy("one") },
    { bytesMax: BYTES_MAX, pollMs: 2 ** 31 - 1, settleMs: 1 },
  );
  const told = next();
  writeFileSync(`${path}.new`, policy("two"));
  renameSync(`${path}.new`, path);
  await told;
  t.equal(current.get().name, "two");
});

/** Files that only the system's own reports make it look at. */
const TOLD: FileSourceOptions = { bytesMax: BYTES_MAX, pollMs: 2 ** 31 - 1, settleMs: 1 };

for (const [name, path] of [
  ["a file of it", "mount/policy.yaml"],
  ["all of it", "mount"],
  ["a link to a file of it", "link.yaml"],
] as const) {
  t.test(`kubelet's swap of a ConfigMap is reported by the system, where the policy is ${name}`, async (t) => {
    const folder = t.testdir({ "link.yaml": t.fixture("symlink", "mount/policy.yaml") });
    const spec = "spec: { lists: { addresses: [{ name: a, file: list.txt }] } }\n";
    const mounted = mountedObject(join(folder, "mount"), {
      "policy.yaml": policy("one", name === "a link to a file of it" ? "" : spec),
      "list.txt": "192.0.2.1\n",
    });
    const { current, next, told } = await watching(t, join(folder, path), TOLD, folder);
    for (const revision of ["two", "three", "four"]) {
      const heard = next();
      mounted.update({ "policy.yaml": policy(revision), "list.txt": "192.0.2.1\n" });
      await heard;
      t.equal(current.get().name, revision);
    }
    const heard = next();
    mounted.update({ "policy.yaml": "nonsense" });
    await heard;
    t.match(told.at(-1), /^refused/);
    t.equal(current.get().name, "four", "the last good one stays");
  });
}

t.test("after closing nothing more is told", async (t) => {
  const { path, watcher, told } = await scene(t, { "policy.yaml": policy("one") });
  watcher.close();
  writeFileSync(path, policy("two"));
  await watcher.check();
  t.same(told, []);
});
