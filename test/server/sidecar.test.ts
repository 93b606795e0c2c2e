import { existsSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { runCommand, startSidecarProcess } from "../../scripts/demo/sidecar.ts";
import { checkBytes, checkOnce } from "../support/check-client.ts";
import { command } from "../support/command.ts";
import { eventually, metric, readiness } from "../support/guarded.ts";

const folder = await mkdtemp(join(tmpdir(), "sallyport-serve-"));
t.teardown(() => rm(folder, { recursive: true, force: true }));

t.test("settings that are wrong are told all at once, with their places, and nothing starts", async (t) => {
  const config = join(folder, "config.yaml");
  await writeFile(config, "polcy: x\nlog-level: loud\nprincipals-max: 3\n");
  const { code, err } = await runCommand(["serve", "--config", config, "--health-address", "nowhere"]);
  t.equal(code, 1);
  t.match(err, /config\.yaml:1:1 polcy: unknown setting; did you mean policy\?/);
  t.match(err, /config\.yaml:2:1 log-level: expected one of debug, info, warn, error, silent, got "loud"/);
  t.match(err, /config\.yaml:3:1 principals-max: expected a whole number from 10 to 1000000, got "3"/);
  t.match(err, /--health-address: expected HOST:PORT or unix:PATH, got "nowhere"/);
});

t.test("a policy that is wrong stops the start with every problem", async (t) => {
  const policy = join(folder, "wrong.yaml");
  await writeFile(
    policy,
    "apiVersion: sallyport.dev/v1\nkind: Policy\nmetadata: {name: p}\nspec: {mode: on, autoLock: soon}\n",
  );
  const { code, err } = await runCommand(["serve", "--policy", policy]);
  t.equal(code, 1);
  t.match(err, /wrong\.yaml:4:14 spec\.mode/);
  t.match(err, /wrong\.yaml:4:28 spec\.autoLock/);
});

t.test("a secret that could be guessed, or is not there, stops the start", async (t) => {
  const secret = join(folder, "nonce-secret");
  await writeFile(secret, `${"x".repeat(31)}\n`);
  const short = await runCommand(["serve", "--challenge-secret-file", secret]);
  t.match(short, { code: 1, err: /expected 32 bytes or more, got 31 \(ERR_CONFIG_INVALID\)/ });
  const none = await runCommand(["serve", "--challenge-secret-file", join(folder, "no-secret")]);
  t.match(none, { code: 1, err: /expected a file that can be read.*ERR_CONFIG_INVALID/ });
});

t.test("a port in use is named", async (t) => {
  const sidecar = await startSidecarProcess({ name: "holder", folder });
  t.teardown(() => sidecar.stop());
  const { code, err } = await runCommand([
    ...["serve", "--ext-authz-address", sidecar.extAuthz],
    ...["streams", "api", "health"].flatMap((name) => [`--${name}-address`, "127.0.0.1:0"]),
  ]);
  t.equal(code, 1);
  t.match(err, /cannot listen on 127\.0\.0\.1:\d+.*ERR_LISTEN/);
});

t.test("Unix sockets serve checks, health and the private API", async (t) => {
  const sidecar = await startSidecarProcess({
    name: "unix",
    folder,
    flags: [
      "--ext-authz-address",
      `unix:${join(folder, "c.sock")}`,
      "--streams-address",
      `unix:${join(folder, "s.sock")}`,
    ],
  });
  t.teardown(() => sidecar.stop());
  t.type(await checkOnce(sidecar.extAuthz, checkBytes({ principal: "spiffe://td/a" })), "object");
  t.equal((await stat(sidecar.apiSocket)).mode & 0o777, 0o600);
  const { code, out } = await command([
    "doctor",
    "--streams-address",
    sidecar.streams,
    "--api",
    `unix:${sidecar.apiSocket}`,
  ]);
  t.equal(code, 0, out);
  t.match(out, /gRPC health: unix:.* is serving/);
});

t.test("SIGTERM drains and ends with 0; what was learned is there after a restart", async (t) => {
  const flags = ["--state-dir", join(folder, "state")];
  const first = await startSidecarProcess({ name: "first", folder, flags });
  for (let i = 0; i < 30; i++) await checkOnce(first.extAuthz, checkBytes({ principal: "spiffe://td/known" }));
  t.equal(await first.stop(), 0);
  const second = await startSidecarProcess({ name: "second", folder, flags });
  t.teardown(() => second.stop());
  t.match((await command(["baseline", "show", "--api", second.api])).out, /spiffe:\/\/td\/known {2}\d+ requests/);
});

t.test("a kill at any moment leaves the last snapshot; a torn one is set aside", async (t) => {
  const state = join(folder, "killed");
  const flags = ["--state-dir", state, "--snapshot-interval", "1s"];
  const first = await startSidecarProcess({ name: "killed", folder, flags });
  for (let i = 0; i < 10; i++) await checkOnce(first.extAuthz, checkBytes({ principal: "spiffe://td/known" }));
  await eventually(async () => (await metric(first, "sallyport_snapshots_total", "written")) || undefined);
  await first.kill();
  const second = await startSidecarProcess({ name: "again", folder, flags });
  t.match((await command(["baseline", "show", "--api", second.api])).out, /spiffe:\/\/td\/known/);
  await second.kill();
  const path = join(state, "baselines.state");
  await writeFile(path, (await readFile(path)).subarray(0, 100));
  const third = await startSidecarProcess({ name: "torn", folder, flags });
  t.teardown(() => third.stop());
  t.match(await readFile(third.log, "utf8"), /"event":"state.unusable".*ERR_STATE_INVALID/);
  t.ok(existsSync(`${path}.unusable`));
  t.match((await command(["baseline", "show", "--api", third.api])).out, /nothing learned yet/);
});

t.test("a good policy change is taken, a bad one refused and told while the last good one stays", async (t) => {
  const policy = join(folder, "live.yaml");
  const text = (revision: string, spec: string): string =>
    `apiVersion: sallyport.dev/v1\nkind: Policy\nmetadata: {name: p, revision: "${revision}"}\nspec: ${spec}\n`;
  await writeFile(policy, text("1", "{}"));
  const sidecar = await startSidecarProcess({ name: "live", folder, policy });
  t.teardown(() => sidecar.stop());
  await writeFile(policy, text("2", "{rules: [{name: all, decision: deny}]}"));
  await eventually(async () => ((await readiness(sidecar)).policy_revision === "2" ? true : undefined));
  t.match(await checkOnce(sidecar.extAuthz, checkBytes({ principal: "spiffe://td/a" })), { status: { code: 7 } });
  await writeFile(policy, text("3", "{mode: nonsense}"));
  await eventually(async () =>
    (await metric(sidecar, "sallyport_policy_loads_total", "refused")) > 0 ? true : undefined,
  );
  t.match(await readiness(sidecar), {
    ready: true,
    policy_revision: "2",
    policy: "latest refused, last good in force",
  });
  t.match(await checkOnce(sidecar.extAuthz, checkBytes({ principal: "spiffe://td/a" })), { status: { code: 7 } });
  t.match(await readFile(sidecar.log, "utf8"), /live\.yaml:4:14 spec\.mode/);
});

t.test("no file is left open to others", async (t) => {
  for (const name of await readdir(join(folder, "state"))) {
    t.equal((await stat(join(folder, "state", name))).mode & 0o077, 0, name);
  }
});

t.test("--mode observe enforces nothing, whatever the policy and its rules say", async (t) => {
  const policy = join(folder, "enforcing.yaml");
  await writeFile(
    policy,
    `apiVersion: sallyport.dev/v1
kind: Policy
metadata: {name: p, revision: "1"}
spec:
  mode: enforce
  rules: [{name: all, decision: deny, mode: enforce}]
  locks: [{id: held, scope: {principal: "spiffe://td/held"}, reason: incident 7}]
`,
  );
  const sidecar = await startSidecarProcess({ name: "observing", folder, policy, flags: ["--mode", "observe"] });
  t.teardown(() => sidecar.stop());
  const answer = (principal: string) => checkOnce(sidecar.extAuthz, checkBytes({ principal }));
  t.match(await answer("spiffe://td/web"), {
    status: { code: 0 },
    dynamicMetadata: { decision: "deny", enforced: "allow", mode: "observe" },
  });
  const held = await answer("spiffe://td/held");
  t.match(held, { status: { code: 0 }, dynamicMetadata: { decision: "terminate", enforced: "allow" } });
  t.notOk(JSON.stringify(held).includes('"terminate":true'));
});
