/** Tests that changes on disk are told once, and that the last good policy stays. */

import { mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t, { type Test } from "tap";
import { CurrentPolicy } from "../../src/bundle/current.ts";
import { loadPolicy } from "../../src/bundle/load.ts";
import { formatProblem } from "../../src/bundle/problem.ts";
import { type PolicyListener, type PolicyWatcher, type WatchOptions, watchPolicy } from "../../src/bundle/watch.ts";

function policy(name: string, spec = ""): string {
  return `apiVersion: sallyport.dev/v1\nkind: Policy\nmetadata: { name: ${name} }\n${spec}`;
}

interface Scene {
  readonly path: string;
  readonly folder: string;
  readonly current: CurrentPolicy;
  readonly watcher: PolicyWatcher;
  /** What was told, in order. */
  readonly told: string[];
  /** Fulfilled when something more is told. */
  readonly next: () => Promise<void>;
}

/** Never looks by itself: a look is asked for. */
const ASKED: WatchOptions = { pollMs: 2 ** 31 - 1, settleMs: 2 ** 31 - 1 };

async function scene(t: Test, files: Parameters<Test["testdir"]>[0], options: WatchOptions = ASKED): Promise<Scene> {
  const folder = t.testdir(files);
  const path = join(folder, "policy.yaml");
  const start = await loadPolicy(path);
  if (!start.ok) throw new Error(start.problems.map(formatProblem).join("\n"));
  const current = new CurrentPolicy(start.policy);
  const told: string[] = [];
  let wake = (): void => {};
  const listener: PolicyListener = {
    onPolicy: (loaded) => {
      current.replace(loaded.policy);
      told.push(loaded.policy.name);
      wake();
    },
    onProblems: ({ problems }) => {
      told.push(...problems.map((problem) => formatProblem(problem).replace(`${folder}/`, "")));
      wake();
    },
  };
  const watcher = watchPolicy(path, start, listener, options);
  // The watcher's own timers do not keep a process alive.
  const awake = setInterval(() => {}, 2 ** 31 - 1);
  t.teardown(() => {
    clearInterval(awake);
    watcher.close();
  });
  const next = (): Promise<void> => new Promise((resolve) => (wake = resolve));
  return { path, folder, current, watcher, told, next };
}

t.test("a new policy takes the place of the old one", async (t) => {
  const { path, current, watcher, told } = await scene(t, { "policy.yaml": policy("one") });
  await watcher.check();
  t.same(told, [], "nothing has changed");
  writeFileSync(path, policy("two"));
  await watcher.check();
  await watcher.check();
  t.same(told, ["two"], "told once");
  t.equal(current.get().name, "two");
});

t.test("a bad policy is told with its problems, and the last good one stays", async (t) => {
  const { path, current, watcher, told } = await scene(t, { "policy.yaml": policy("one") });
  writeFileSync(path, policy("two", "spec: { mode: nope }\n"));
  await watcher.check();
  await watcher.check();
  t.same(told, ['policy.yaml:4:15 spec.mode: expected one of enforce, observe, got "nope"']);
  t.equal(current.get().name, "one");
  writeFileSync(path, policy("three"));
  await watcher.check();
  t.equal(current.get().name, "three");
});

t.test("a policy that is gone leaves the last good one in force, until it is back", async (t) => {
  const { path, current, watcher, told } = await scene(t, { "policy.yaml": policy("one") });
  rmSync(path);
  await watcher.check();
  writeFileSync(path, policy("one"));
  await watcher.check();
  t.same(told, ["policy.yaml: expected a file that can be read, got no such file", "one"]);
  t.equal(current.get().name, "one");
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
  t.same(told, ["one", 'list.txt:1: expected an address or a CIDR range, got "x"']);
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
    { pollMs: 5, settleMs: 2 ** 31 - 1 },
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
    { pollMs: 2 ** 31 - 1, settleMs: 1 },
  );
  const told = next();
  writeFileSync(`${path}.new`, policy("two"));
  renameSync(`${path}.new`, path);
  await told;
  t.equal(current.get().name, "two");
});

t.test("after closing nothing more is told", async (t) => {
  const { path, watcher, told } = await scene(t, { "policy.yaml": policy("one") });
  watcher.close();
  writeFileSync(path, policy("two"));
  await watcher.check();
  t.same(told, []);
});

t.test("a listener that throws does not end the watching", async (t) => {
  const folder = t.testdir({ "policy.yaml": policy("one") });
  const path = join(folder, "policy.yaml");
  const names: string[] = [];
  const listener: PolicyListener = {
    onPolicy: (loaded) => {
      names.push(loaded.policy.name);
      if (names.length === 1) throw new Error("listener");
    },
    onProblems: () => {},
  };
  const watcher = watchPolicy(path, await loadPolicy(path), listener, ASKED);
  t.teardown(() => watcher.close());
  writeFileSync(path, policy("two"));
  await t.rejects(watcher.check(), { message: "listener" });
  writeFileSync(path, policy("three"));
  await watcher.check();
  t.same(names, ["two", "three"]);
});
