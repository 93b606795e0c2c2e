import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { get, type IncomingMessage } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { runCommand, startSidecarProcess } from "../../scripts/demo/sidecar.ts";
import { checkBytes, checkOnce } from "../support/check-client.ts";
import { eventually, metric } from "../support/guarded.ts";

const MAIN = fileURLToPath(new URL("../../dist/main.js", import.meta.url));
const folder = await mkdtemp(join(tmpdir(), "sallyport-files-"));
t.teardown(() => rm(folder, { recursive: true, force: true }));
const path = (name: string): string => join(folder, name);

/** Addresses on which nothing else listens. */
const ANYWHERE = ["ext-authz", "streams", "api", "health"].flatMap((name) => [`--${name}-address`, "127.0.0.1:0"]);
const serve = (...flags: string[]) => runCommand(["serve", ...ANYWHERE, ...flags]);

t.test("what cannot be read or made at the start is named, and nothing starts", async (t) => {
  await writeFile(path("a-file"), "");
  await writeFile(path("short-token"), "too short\n");
  const cases = [
    {
      flags: ["--config", path("none.yaml")],
      says: /none\.yaml: expected a file that can be read \(ERR_CONFIG_INVALID\)/,
    },
    { flags: ["--policy", path("none.yaml")], says: /none\.yaml.*no such file/ },
    { flags: ["--state-dir", join(path("a-file"), "state")], says: /cannot be written.*ERR_STATE_UNWRITABLE/ },
    { flags: ["--recording", path("no/where")], says: /recording .*where: cannot be written \(ERR_STATE_UNWRITABLE\)/ },
    {
      flags: ["--prior", path("none.prior")],
      says: /none\.prior: expected a file that can be read \(ERR_DATA_UNREADABLE\)/,
    },
    { flags: ["--prior", path("a-file")], says: /ERR_STATE_INVALID/ },
    {
      flags: ["--api-token-file", path("short-token")],
      says: /expected at least 16 characters, got 9 \(ERR_CONFIG_INVALID\)/,
    },
    { flags: ["--api-socket", path("a-file")], says: /cannot listen on unix:.*a-file.*ERR_LISTEN/ },
    { flags: ["--health-address", "192.0.2.1:1"], says: /cannot listen on 192\.0\.2\.1:1.*ERR_LISTEN/ },
  ];
  for (const { flags, says } of cases) {
    const { code, out, err } = await serve(...flags);
    t.equal(code, 1, flags.join(" "));
    t.equal(out, "");
    t.match(err, says);
    t.notOk(/ {4}at /.test(err), `no stack: ${err}`);
  }
  t.ok((await stat(path("a-file"))).isFile(), "a file in a socket's place is left alone");
});

t.test("health and the API are served on Unix sockets as well", async (t) => {
  const socket = path("health.sock");
  const sidecar = await startSidecarProcess({
    name: "unix",
    folder,
    flags: ["--health-address", `unix:${socket}`, "--api-address", `unix:${path("api.sock")}`],
  });
  t.teardown(() => sidecar.stop());
  const [response] = (await once(get({ socketPath: socket, path: "/readyz" }), "response")) as [IncomingMessage];
  t.equal(response.statusCode, 200);
  response.resume();
  t.equal((await stat(socket)).mode & 0o777, 0o666, "probes run as other users");
  t.equal((await stat(path("api.sock"))).mode & 0o777, 0o600);
  t.match(await runCommand(["locks", "--api", `unix:${path("api.sock")}`]), { code: 0, out: "no locks\n" });
});

t.test("a socket that a killed process left behind is taken over", async (t) => {
  const flags = ["--ext-authz-address", `unix:${path("check.sock")}`];
  const first = await startSidecarProcess({ name: "left", folder, flags });
  await first.kill();
  t.ok(existsSync(path("check.sock")) && existsSync(first.apiSocket));
  const second = await startSidecarProcess({ name: "left", folder, flags });
  t.teardown(() => second.stop());
  t.match(await checkOnce(second.extAuthz, checkBytes()), { dynamicMetadata: { decision: "allow" } });
});

t.test("a decision log that cannot be written is told, and decisions go on", async (t) => {
  const flags = ["--decision-log", path("no/where.log")];
  const sidecar = await startSidecarProcess({ name: "unlogged", folder, flags });
  t.teardown(() => sidecar.stop());
  for (let i = 0; i < 3; i++) t.match(await checkOnce(sidecar.extAuthz, checkBytes()), { status: { code: 0 } });
  await eventually(async () => /decision-log\.failed/.test(await readFile(sidecar.log, "utf8")) || undefined);
  t.equal((await readFile(sidecar.log, "utf8")).match(/decision-log\.failed/g)?.length, 1, "once");
  t.ok((await metric(sidecar, "sallyport_decisions_unlogged_total")) > 0);
});

t.test("a reader of the decision log on standard output may leave", async (t) => {
  const child = spawn(process.execPath, [MAIN, "serve", ...ANYWHERE, "--decision-log", "stdout"], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  t.teardown(() => child.kill("SIGKILL"));
  let said = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    said += text;
  });
  const started = await eventually(async () => said.split("\n").find((line) => line.includes('"event":"started"')));
  const { extAuthz } = JSON.parse(started) as { extAuthz: string };
  const first = once(child.stdout, "data");
  await checkOnce(extAuthz, checkBytes());
  t.match(JSON.parse(String((await first)[0])), { decision_id: String, result: { allowed: true } });
  child.stdout.destroy();
  for (let i = 0; i < 5; i++) t.match(await checkOnce(extAuthz, checkBytes()), { status: { code: 0 } });
  await eventually(async () => said.includes("decision-log.failed") || undefined);
  child.kill("SIGTERM");
  t.same(await once(child, "exit"), [0, null]);
});

t.test(
  "a snapshot that cannot be written is told and counted; decisions go on, and the next one may succeed",
  async (t) => {
    const state = path("vanishing");
    const flags = ["--state-dir", state, "--snapshot-interval", "1s"];
    const sidecar = await startSidecarProcess({ name: "vanishing", folder, flags });
    t.teardown(() => sidecar.stop());
    await rm(state, { recursive: true });
    await eventually(async () => (await metric(sidecar, "sallyport_snapshots_total", "failed")) || undefined);
    t.match(await checkOnce(sidecar.extAuthz, checkBytes()), { status: { code: 0 } });
    t.match(await readFile(sidecar.log, "utf8"), /"event":"state\.unwritable".*ERR_STATE_UNWRITABLE/);
    await mkdir(state);
    await eventually(async () => (await metric(sidecar, "sallyport_snapshots_total", "written")) || undefined);
    t.ok(existsSync(join(state, "baselines.state")));
  },
);

t.test("a state folder that takes no key keeps nothing from starting, and says what that costs", async (t) => {
  const state = path("unwritable");
  // A folder in the way of the file: this also stops a superuser.
  await mkdir(join(state, "credential-hash.key.new"), { recursive: true });
  const sidecar = await startSidecarProcess({ name: "unwritable", folder, flags: ["--state-dir", state] });
  t.teardown(() => sidecar.stop());
  t.match(await checkOnce(sidecar.extAuthz, checkBytes()), { status: { code: 0 } });
  t.match(
    await readFile(sidecar.log, "utf8"),
    /"level":"?error.*"event":"state\.unwritable".*credential-hash\.key.*credential hashes will not survive a restart/,
  );
});

t.test("a torn key is set aside; state that is none of ours, too; a whole one is not touched", async (t) => {
  const state = path("odd");
  await mkdir(state);
  await writeFile(join(state, "credential-hash.key"), "short");
  await writeFile(join(state, "baselines.state"), "not a snapshot");
  const flags = ["--state-dir", state];
  const first = await startSidecarProcess({ name: "odd", folder, flags });
  t.equal(await first.stop(), 0);
  t.equal(await readFile(join(state, "credential-hash.key.unusable"), "utf8"), "short");
  t.equal(await readFile(join(state, "baselines.state.unusable"), "utf8"), "not a snapshot");
  const key = await readFile(join(state, "credential-hash.key"));
  t.equal(key.length, 32);
  const second = await startSidecarProcess({ name: "odd-again", folder, flags });
  t.equal(await second.stop(), 0);
  t.same(await readFile(join(state, "credential-hash.key")), key);
  t.match(await readFile(second.log, "utf8"), /"event":"state\.restored"/);
});

t.test("a half-written snapshot beside the whole one is not read", async (t) => {
  const state = path("half");
  const flags = ["--state-dir", state];
  const first = await startSidecarProcess({ name: "half", folder, flags });
  for (let i = 0; i < 5; i++) await checkOnce(first.extAuthz, checkBytes({ principal: "spiffe://td/known" }));
  t.equal(await first.stop(), 0);
  await writeFile(join(state, "baselines.state.new"), "half of a snap");
  const second = await startSidecarProcess({ name: "half-again", folder, flags });
  t.teardown(() => second.stop());
  t.match((await runCommand(["baseline", "show", "--api", second.api])).out, /spiffe:\/\/td\/known/);
});
