import { spawn } from "node:child_process";
import { once } from "node:events";
import { appendFile, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { startSidecarProcess } from "../../scripts/demo/sidecar.ts";
import { checkBytes, checkClient } from "../support/check-client.ts";
import { command } from "../support/command.ts";
import { eventually } from "../support/guarded.ts";
import { freePort } from "../support/ports.ts";

const MAIN = fileURLToPath(new URL("../../dist/main.js", import.meta.url));
const ENVOY = fileURLToPath(new URL("../../envoy/http-mtls.yaml", import.meta.url));
const folder = await mkdtemp(join(tmpdir(), "sallyport-cli-sidecar-"));
const policy = join(folder, "policy.yaml");
const decisions = join(folder, "decisions.log");
const writePolicy = (revision: string, spec: string): Promise<void> =>
  writeFile(
    policy,
    `apiVersion: sallyport.dev/v1\nkind: Policy\nmetadata: {name: p, revision: "${revision}"}\nspec: ${spec}\n`,
  );
await writePolicy("1", '{rules: [{name: closed, match: {routes: ["/closed"]}, decision: deny}]}');
const sidecar = await startSidecarProcess({ name: "sidecar", folder, policy, flags: ["--decision-log", decisions] });
const client = checkClient(sidecar.extAuthz);
t.teardown(async () => {
  client.close();
  await sidecar.stop();
  await rm(folder, { recursive: true, force: true });
});

const API = ["--api", sidecar.api];
const RUNNING = [...API, "--streams-address", sidecar.streams];

async function decide(parts: Parameters<typeof checkBytes>[0]): Promise<string> {
  const answer = await client.send(checkBytes(parts));
  if (typeof answer === "number") throw new Error(`failed with ${answer}`);
  return String(answer.dynamicMetadata?.decision_id);
}

const headers = { "user-agent": "web/1.0", "x-sallyport-ja4": "t13d1312h2_f57a46bbacb6_ab7e3b40a677" };

t.test("a recent decision is explained with all that it was made from", async (t) => {
  const id = await decide({ path: "/closed", headers });
  const text = (await command(["explain", id, ...API])).out;
  t.match(text, /^decision {4}deny$/m);
  t.match(text, /^mode {8}enforce, rule closed, policy p 1$/m);
  t.match(text, /^because {5}rule closed$/m);
  t.match(text, /^principal {3}spiffe:\/\/td\/web$/m);
  t.match(text, /^request {5}http orders GET \/closed$/m);
  t.match(text, /^from {8}10\.0\.0\.1, web\/1\.0, t13d1312h2_f57a46bbacb6_ab7e3b40a677$/m);
  t.match(text, new RegExp(`^id {10}${id}$`, "m"));
  const json = JSON.parse((await command(["explain", id, "--output", "json", ...API])).out) as Record<string, unknown>;
  t.match(json, {
    decision_id: id,
    decision: "deny",
    enforced: "deny",
    rule: "closed",
    because: "rule closed",
    protocol: "http",
  });
});

t.test("points of the reasons add up to the score", async (t) => {
  await command([
    "lock",
    "--principal",
    "spiffe://td/locked",
    "--reason",
    "test",
    "--api",
    `unix:${sidecar.apiSocket}`,
  ]);
  const id = await decide({ principal: "spiffe://td/locked" });
  const { out } = await command(["explain", id, "--output", "json", ...API]);
  const { score, reasons } = JSON.parse(out) as { score: number; reasons: { points: number }[] };
  t.equal(score, 100);
  t.equal(
    reasons.reduce((sum, { points }) => sum + points, 0),
    100,
  );
  t.match(
    (await command(["explain", id, ...API])).out,
    /^ {1}100\.0 {3}64\.0 {2}lock: lock lock-\w+: test; expected no lock$/m,
  );
});

t.test("a decision is explained from the decision log, also beside a line that is still being written", async (t) => {
  const id = await decide({ path: "/logged" });
  await eventually(async () => (await readFile(decisions, "utf8")).includes(id) || undefined);
  await appendFile(decisions, '{"decision_id":"torn');
  const { code, out } = await command(["explain", id, "--log", decisions, "--output", "json"]);
  t.equal(code, 0);
  t.match(JSON.parse(out), {
    decision_id: id,
    labels: { id: String, version: String },
    timestamp: /Z$/,
    input: { principal: "spiffe://td/web", route: "/logged", source_address: "10.0.0.1" },
    result: { allowed: true, risk: { decision: "allow", enforced: "allow", mode: "enforce" } },
    bundles: { policy: { revision: "1" } },
    metrics: { timer_check_ns: Number },
  });
  const text = (await command(["explain", id, "--log", decisions])).out;
  t.match(text, /^mode {8}enforce, rule default, policy p 1$/m);
  t.match(text, /^ {3}26\.0 {2}challenge \(the policy\): [\d.]+ points more$/m);
  t.match(text, new RegExp(`^id {10}${id}$`, "m"));
});

t.test("what is not known is not explained", async (t) => {
  t.match(await command(["explain", "019caeb6-0000", ...API]), { code: 1, err: /no such decision.*ERR_NOT_FOUND/ });
  t.match(await command(["explain", "019caeb6-0000", "--log", decisions]), {
    code: 1,
    err: /no decision 019caeb6-0000 in .*ERR_NOT_FOUND/,
  });
  t.match(await command(["explain", "x", "--log", join(folder, "none")]), {
    code: 1,
    err: /none: cannot be read.*ERR_DATA_UNREADABLE/,
  });
  t.match(await command(["explain", ...API]), { code: 2, err: /expected DECISION_ID, got nothing/ });
});

t.test("a tap shows past decisions, then those that are made, and ends after as many as asked for", async (t) => {
  const past = await decide({ path: "/past" });
  const flags = ["--recent", "1", "--count", "2", "--output", "json", ...API];
  const child = spawn(process.execPath, [MAIN, "tap", ...flags], { stdio: ["ignore", "pipe", "inherit"] });
  let out = "";
  child.stdout.on("data", (chunk: Buffer) => {
    // Once it shows what is past, it shows what comes.
    if (out === "") void decide({ path: "/live" });
    out += chunk.toString();
  });
  const [code] = (await once(child, "close")) as [number];
  const [first, second, ...more] = out
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  t.match(
    { code, first, second, more },
    { code: 0, first: { decision_id: past }, second: { route: "/live" }, more: [] },
  );
});

t.test("a tap in words has one line for each decision", async (t) => {
  await decide({ path: "/closed" });
  const { out } = await command(["tap", "--recent", "1", "--count", "1", ...API]);
  t.match(
    out,
    /^\d\d:\d\d:\d\d\.\d{3} {2}deny +\d+\.\d {2}spiffe:\/\/td\/web {2}orders GET \/closed {2}from 10\.0\.0\.1.*\n$/,
  );
});

t.test("whoever reads a tap may leave", async (t) => {
  const child = spawn(process.execPath, [MAIN, "tap", "--recent", "10", ...API], { stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    said += text;
  });
  await once(child.stdout, "data");
  const gone = once(child, "exit");
  const left = gone.then(() => true);
  child.stdout.destroy();
  while (!(await Promise.race([left, decide({}).then(() => false)])));
  t.same([await gone, said], [[0, null], ""]);
});

t.test("a tap's numbers have bounds", async (t) => {
  for (const [flag, value] of [
    ["recent", "1001"],
    ["recent", "-1"],
    ["score-min", "101"],
    ["count", "0"],
    ["count", "few"],
  ] as const) {
    t.match(await command(["tap", `--${flag}=${value}`, ...API]), {
      code: 2,
      err: new RegExp(`--${flag}: expected .*got "${value}"`),
    });
  }
});

t.test("the doctor finds a sound installation sound", async (t) => {
  const { code, out } = await command(["doctor", "--policy", policy, "--envoy-config", ENVOY, ...RUNNING]);
  t.equal(code, 0, out);
  t.match(out, /^ok {4}settings: read$/m);
  t.match(out, /^ok {4}policy: .*policy\.yaml 1$/m);
  t.match(out, /^ok {4}sidecar: version \S+, policy 1, mode enforce, \d+ checks$/m);
  t.match(out, /^ok {4}gRPC health: 127\.0\.0\.1:\d+ is serving$/m);
  t.notOk(/^(?:warn|BAD)/m.test(out), out);
});

t.test("the doctor without a sidecar says that there is none, offline it does not look", async (t) => {
  const port = await freePort();
  const nowhere = ["--api", `127.0.0.1:${port}`, "--streams-address", `127.0.0.1:${port}`];
  const { code, out } = await command(["doctor", ...nowhere]);
  t.equal(code, 1);
  t.match(out, /^BAD {3}sidecar: the sidecar's local API does not answer/m);
  t.match(out, /^BAD {3}gRPC health: .* does not answer SERVING$/m);
  t.match(await command(["doctor", "--offline", ...nowhere]), {
    code: 0,
    out: /^ok {4}policy: none given: the shipped one is in force$/m,
  });
});

t.test("the doctor tells everything that is wrong, in words and as JSON", async (t) => {
  const wrong = await command(["doctor", "--offline", "--mode", "enforce", "--principals-max", "1"]);
  t.equal(wrong.code, 1);
  t.match(wrong.out, /^BAD {3}settings: --mode: expected one of policy, observe, got "enforce"$/m);
  t.match(wrong.out, /^BAD {3}settings: --principals-max: /m);
  const bad = join(folder, "bad.yaml");
  await writeFile(bad, "kind: Other\n");
  const { code, out } = await command(["doctor", "--offline", "--policy", bad, "--output", "json"]);
  t.equal(code, 1);
  const findings = JSON.parse(out) as { level: string; about: string; message: string }[];
  t.ok(findings.filter(({ level, about }) => level === "bad" && about === "policy").length >= 2, out);
});

t.test("the doctor names what it cannot read", async (t) => {
  t.match(await command(["doctor", "--offline", "--envoy-config", join(folder, "none")]), {
    code: 1,
    err: /none: expected an Envoy configuration.*ERR_DATA_UNREADABLE/,
  });
  t.match(await command(["doctor", "--offline", "--envoy-admin", `127.0.0.1:${await freePort()}`]), {
    code: 1,
    err: /expected Envoy's admin interface.*ERR_DATA_UNREADABLE/,
  });
  t.match(await command(["doctor", "--envoy", "x"]), { code: 2, err: /unknown flag --envoy/ });
});

t.test("the doctor tells of a policy that the sidecar refused", async (t) => {
  await writePolicy("2", "{mode: nonsense}");
  const told = await eventually(async () => {
    const { out } = await command(["doctor", ...RUNNING]);
    return out.includes("refused") ? out : undefined;
  });
  t.match(told, /^BAD {3}sidecar policy: latest refused, last good in force: .*policy\.yaml:4:14 spec\.mode/m);
});
