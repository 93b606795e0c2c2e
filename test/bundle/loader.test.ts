/** Tests loading on a thread of its own. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { loadPolicy } from "../../src/bundle/load.ts";
import { PolicyLoader } from "../../src/bundle/loader.ts";
import { formatProblem } from "../../src/bundle/problem.ts";

const HEAD = "apiVersion: sallyport.dev/v1\nkind: Policy\nmetadata: { name: a }\n";
const FULL = `${HEAD}spec:
  rules: [{ name: r, match: { destinations: ["*.example"] }, decision: deny }]
  lists:
    addresses: [{ name: scanners, file: list.txt, bits: 7 }]
    fingerprints: [{ name: tools, action: block, values: [t13d_tool] }]
  identity: { apiKeys: { keys: [{ name: partner, sha256: "${"ab".repeat(32)}" }] } }
  posture: { facts: [{ subject: w, facts: { node: "1" } }] }
  locks: [{ id: l, scope: { principal: p }, reason: why }]
`;

t.test("a policy from the thread is the policy that is made without one", async (t) => {
  const folder = t.testdir({ "policy.yaml": FULL, "list.txt": "192.0.2.0/24 3\n2001:db8::/32\n" });
  const loader = new PolicyLoader();
  t.teardown(() => loader.close());
  const path = join(folder, "policy.yaml");
  const [here, there] = [await loadPolicy(path), await loader.load({ kind: "path", path })];
  t.ok(here.ok && there.ok);
  if (!here.ok || !there.ok) return;
  t.same([there.digest, there.files, there.warnings], [here.digest, here.files, []]);
  for (const { policy } of [here, there]) {
    t.equal(policy.revision, `sha256:${here.digest.slice(0, 12)}`);
    t.same(policy.addresses.lookup("192.0.2.9"), { list: "scanners", action: "score", bits: 3, reason: "scanners" });
    t.equal(policy.addresses.lookup("2001:db8::1")?.bits, 7);
    t.equal(policy.fingerprints.get("t13d_tool")?.action, "block");
    t.equal(policy.fingerprints.get("t13d"), undefined);
    t.equal(policy.identity.apiKeys.get("ab".repeat(32)), "partner");
    t.match(policy.postureFacts.get("w"), { facts: { node: "1" }, source: "policy" });
    t.match(policy.locks, [{ id: "l", scope: { principal: "p" }, setBy: "policy" }]);
    t.match(policy.rules, [{ name: "r", decision: "deny" }]);
    t.ok(policy.rules[0]?.match.destinations[0]?.test("a.example"));
  }
});

t.test("what is wrong with a policy is told in the same words", async (t) => {
  const folder = t.testdir({ "policy.yaml": FULL, "list.txt": "192.0.2.0/24\nnonsense\n" });
  const loader = new PolicyLoader();
  t.teardown(() => loader.close());
  const path = join(folder, "policy.yaml");
  const result = await loader.load({ kind: "path", path });
  t.notOk(result.ok);
  if (result.ok) return;
  t.same(result.problems.map(formatProblem), ['list.txt:2: expected an address or a CIDR range, got "nonsense"']);
  t.equal(result.code, "ERR_POLICY_INVALID");
});

t.test("a load that takes too long is refused, and the next one is a new beginning", async (t) => {
  const folder = t.testdir({ "policy.yaml": FULL, "list.txt": "192.0.2.0/24\n" });
  const path = join(folder, "policy.yaml");
  const hasty = new PolicyLoader({ timeoutMs: 0 });
  t.teardown(() => hasty.close());
  const refused = await hasty.load({ kind: "path", path });
  t.notOk(refused.ok);
  if (!refused.ok) {
    t.equal(
      refused.problems.map(formatProblem)[0],
      `${path}: expected a load that comes to its end, got one that does not`,
    );
    t.equal(refused.digest, "");
  }
  t.notOk((await hasty.load({ kind: "path", path })).ok);
});

t.test("a thread that runs out of memory is a refused load, and the next one is a new beginning", async (t) => {
  const keys = Array.from(
    { length: 20_000 },
    (_, i) => `{ name: k${i}, sha256: "${i.toString(16).padStart(64, "0")}" }`,
  );
  const folder = t.testdir({
    "large.yaml": `${HEAD}spec: { identity: { apiKeys: { keys: [${keys.join(", ")}] } } }\n`,
    "small.yaml": HEAD,
  });
  const loader = new PolicyLoader({ heapMbMax: 24 });
  t.teardown(() => loader.close());
  const refused = await loader.load({ kind: "path", path: join(folder, "large.yaml") });
  t.notOk(refused.ok);
  if (!refused.ok) t.match(refused.problems[0]?.got, "ERR_WORKER_OUT_OF_MEMORY");
  t.ok((await loader.load({ kind: "path", path: join(folder, "small.yaml") })).ok);
});

t.test("loads that are asked for together come one after another, each with its own answer", async (t) => {
  const folder = t.testdir({ "a.yaml": HEAD, "b.yaml": HEAD.replace("name: a", "name: b"), "c.yaml": "nonsense" });
  const loader = new PolicyLoader();
  t.teardown(() => loader.close());
  const results = await Promise.all(
    ["a", "c", "b"].map((name) => loader.load({ kind: "path", path: join(folder, `${name}.yaml`) })),
  );
  t.same(
    results.map((result) => (result.ok ? result.policy.name : "refused")),
    ["a", "refused", "b"],
  );
});

t.test("after the end every load is refused", async (t) => {
  const loader = new PolicyLoader();
  const under = loader.load({ kind: "path", path: "policy.yaml" });
  await loader.close();
  t.notOk((await under).ok);
  t.notOk((await loader.load({ kind: "path", path: "policy.yaml" })).ok);
});

t.test("a thread that waits for work does not keep a program from ending", async (t) => {
  const folder = t.testdir({ "policy.yaml": HEAD });
  const loader = fileURLToPath(new URL("../../src/bundle/loader.ts", import.meta.url));
  const script = join(folder, "load.ts");
  mkdirSync(folder, { recursive: true });
  writeFileSync(
    script,
    `import { PolicyLoader } from ${JSON.stringify(loader)};
const result = await new PolicyLoader({ idleMs: 3_600_000 }).load({ kind: "path", path: ${JSON.stringify(join(folder, "policy.yaml"))} });
console.log(result.ok);\n`,
  );
  const child = spawn(process.execPath, ["--import=tsx", script], { stdio: ["ignore", "pipe", "inherit"] });
  const [output] = (await once(child.stdout.setEncoding("utf8"), "data")) as [string];
  t.equal(output, "true\n");
  t.same(await once(child, "exit"), [0, null]);
});
