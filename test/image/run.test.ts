import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { mkdir, mkdtemp, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { gatherTree } from "../../scripts/image-contents/tree.ts";
import { writeTree } from "../../scripts/image-contents.ts";
import { checkBytes, checkClient } from "../support/check-client.ts";
import { execForm, parseDockerfile } from "../support/dockerfile.ts";
import { canSandbox, makeSandbox } from "../support/sandbox.ts";
import { skipUnless } from "../support/skip.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const { version } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { readonly version: string };
const tree = gatherTree(ROOT, "image", 0);
const last = parseDockerfile(readFileSync(join(ROOT, "Dockerfile"), "utf8")).stages.at(-1);
const worded = (name: string) => execForm(last?.instructions.find((found) => found.name === name)?.text ?? "") ?? [];
const POLICY = `apiVersion: sallyport.dev/v1
kind: Policy
metadata: {name: p}
spec: {rules: [{name: closed, match: {routes: ["/closed"]}, decision: deny}]}
`;
/** What an engine runs, word by word. */
const ENTRYPOINT = worded("ENTRYPOINT");

t.test("the tree runs by itself, wherever it lies", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "sallyport-tree-"));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  writeTree(tree.files, folder, 0);
  const run = (...args: readonly string[]) =>
    execFileSync("env", ["--unset=NODE_OPTIONS", "--unset=NODE_PATH", process.execPath, ...args], {
      cwd: "/",
      encoding: "utf8",
    });
  const said = `sallyport ${version} (node ${process.versions.node})\n`;
  t.equal(run(join(folder, "dist/main.js"), "version"), said);
  t.equal(run(join(folder, "bin/sallyport"), "version"), said, "the launcher leads to the same program");
  t.match(run(join(folder, "dist/main.js"), "check", "--print-default"), /^apiVersion: sallyport\.dev\/v1$/m);
});

t.test("policies load where a sandbox forbids threads to lower their priority", async (t) => {
  const folder = t.testdir({
    "forbid.cjs": 'require("node:os").setPriority = () => { throw new Error("EPERM"); };',
    "policy.yaml": POLICY,
  });
  const forbid = `NODE_OPTIONS=--require=${join(folder, "forbid.cjs")}`;
  const off = ["--ext-authz-address", "127.0.0.1:0", "--streams-address", "127.0.0.1:0", "--api-address", "off"];
  const words = [join(ROOT, "dist/main.js"), "serve", "--policy", join(folder, "policy.yaml"), ...off];
  const child = spawn("env", [forbid, process.execPath, ...words, "--health-address", "127.0.0.1:0"], {
    stdio: "pipe",
  });
  t.teardown(() => child.kill("SIGKILL"));
  const said = await untilStarted(child);
  const ready = await fetch(`http://${said.health}/readyz`);
  t.match(await ready.json(), { ready: true, policy_source: join(folder, "policy.yaml") });
});

const sandboxed = skipUnless(canSandbox(), "a root of its own needs Linux and root", { obtainable: false });

t.test("in a container's surroundings", sandboxed, async (t) => {
  const sandbox = await makeSandbox(tree.files, ["/var/lib/sallyport", "/run/sallyport"]);
  t.teardown(() => sandbox.remove());
  await mkdir(join(sandbox.root, "etc/sallyport"), { recursive: true });
  await writeFile(join(sandbox.root, "etc/sallyport/policy.yaml"), POLICY);

  t.test("the entrypoint runs without a shell, as its user, and can change nothing", async (t) => {
    t.same(worded("CMD"), ["serve"]);
    t.equal(sandbox.output([...ENTRYPOINT, "version"]), `sallyport ${version} (node ${process.versions.node})\n`);
    t.equal(
      sandbox.output(["/app/bin/sallyport", "version"]),
      `sallyport ${version} (node ${process.versions.node})\n`,
    );
    const environment = last?.instructions.find(({ name }) => name === "ENV")?.text;
    t.match(environment, /\bPATH=\/app\/bin:\/nodejs\/bin:/, "both are found by their names");
    t.notOk(existsSync(join(sandbox.root, "bin/sh")));
    const probe = `
      const fs = require("node:fs");
      const tries = ["/app/dist/main.js", "/app/new", "/new", "/etc/sallyport/policy.yaml", "/var/lib/sallyport/new", "/run/sallyport/new"];
      const refused = tries.filter((path) => { try { fs.writeFileSync(path, ""); return false; } catch { return true; } });
      const status = fs.readFileSync("/proc/self/status", "utf8");
      console.log(JSON.stringify({ pid: process.pid, uid: process.getuid(), gid: process.getgid(), groups: process.getgroups(),
        caps: /^CapEff:\\s+(\\w+)$/m.exec(status)[1], refused }));`;
    t.same(JSON.parse(sandbox.output([ENTRYPOINT[0] as string, "-e", probe])), {
      pid: 1,
      uid: 65_532,
      gid: 65_532,
      groups: [65_532],
      caps: "0000000000000000",
      refused: ["/app/dist/main.js", "/app/new", "/new", "/etc/sallyport/policy.yaml"],
    });
  });

  t.test("serve answers on its sockets, learns into its folder, and drains as process 1", async (t) => {
    const child = sandbox.start([...ENTRYPOINT, ...worded("CMD")], {
      SALLYPORT_POLICY: "/etc/sallyport/policy.yaml",
      SALLYPORT_EXT_AUTHZ_ADDRESS: "unix:/run/sallyport/check.sock",
      SALLYPORT_STREAMS_ADDRESS: "unix:/run/sallyport/streams.sock",
      SALLYPORT_API_SOCKET: "/run/sallyport/api.sock",
      SALLYPORT_API_ADDRESS: "off",
      SALLYPORT_HEALTH_ADDRESS: "127.0.0.1:0",
      SALLYPORT_STATE_DIR: "/var/lib/sallyport",
    });
    t.teardown(() => child.kill("SIGKILL"));
    const said = await untilStarted(child);
    const client = checkClient(`unix:${join(sandbox.root, "run/sallyport/check.sock")}`);
    t.equal(await client.decision(checkBytes({ path: "/closed" })), "deny");
    t.equal(await client.decision(checkBytes({ path: "/open" })), "allow");
    client.close();
    const ready = await fetch(`http://${said.health}/readyz`);
    t.match(await ready.json(), { ready: true, policy_source: "/etc/sallyport/policy.yaml" });
    t.equal((await stat(join(sandbox.root, "run/sallyport/check.sock"))).mode & 0o777, 0o666);
    t.equal((await stat(join(sandbox.root, "run/sallyport/api.sock"))).mode & 0o777, 0o600);

    process.kill(sandbox.innerPid(child), "SIGTERM");
    const [code] = (await once(child, "exit")) as [number | null];
    t.equal(code, 0);
    const key = await stat(join(sandbox.root, "var/lib/sallyport/credential-hash.key"));
    t.equal(key.uid, 65_532);
    t.equal(key.mode & 0o777, 0o600);
    for (const { path, bytes } of tree.files) {
      if (!Buffer.from(bytes).equals(readFileSync(join(sandbox.root, "app", path)))) t.fail(`${path} was changed`);
    }
  });
});

/** What `serve` says of its addresses, once it has started. */
async function untilStarted(child: ChildProcess): Promise<Readonly<Record<string, string>>> {
  let text = "";
  return await new Promise((resolve, reject) => {
    child.stderr?.setEncoding("utf8").on("data", (part: string) => {
      text += part;
      const line = text.split("\n").find((candidate) => candidate.includes('"event":"started"'));
      if (line !== undefined) resolve(JSON.parse(line) as Record<string, string>);
    });
    child.once("exit", (code) => reject(new Error(`ended with ${code}:\n${text}`)));
  });
}
