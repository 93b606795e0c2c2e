import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { startSidecarProcess } from "../../scripts/demo/sidecar.ts";
import { checkBytes, checkClient } from "../support/check-client.ts";
import { command } from "../support/command.ts";
import { eventually } from "../support/guarded.ts";

const folder = await mkdtemp(join(tmpdir(), "sallyport-cli-explain-"));
const policy = join(folder, "policy.yaml");
await writeFile(
  policy,
  `apiVersion: sallyport.dev/v1
kind: Policy
metadata: {name: p, revision: "1"}
spec:
  rules:
    - {name: closed, match: {routes: [/closed]}, decision: deny}
    - {name: careful, match: {routes: [/careful]}, thresholds: {challenge: 12}}
    - {name: odd, match: {routes: [/odd]}, when: 'int(request.path) > 1', decision: deny}
  peerGroups:
    - {name: everybody, principals: ["**"]}
`,
);
const decisions = join(folder, "decisions.log");
const sidecar = await startSidecarProcess({ name: "sidecar", folder, policy, flags: ["--decision-log", decisions] });
const client = checkClient(sidecar.extAuthz);
t.teardown(async () => {
  client.close();
  await sidecar.stop();
  await rm(folder, { recursive: true, force: true });
});
const API = ["--api", sidecar.api];

async function decide(path: string): Promise<string> {
  const answer = await client.send(checkBytes({ path, headers: { "user-agent": "web/1.0" } }));
  if (typeof answer === "number") throw new Error(`failed with ${answer}`);
  return String(answer.dynamicMetadata?.decision_id);
}

t.test("thresholds in force, which rule gave them, and what is missing to each are shown", async (t) => {
  const { out } = await command(["explain", await decide("/careful"), ...API]);
  t.match(out, /^ {3}12\.0 {2}challenge \(rule careful\): [\d.]+ points more$/m);
  t.match(out, /^ {3}36\.0 {2}deny \(the policy\): [\d.]+ points more; takes a challenge that was failed/m);
});

t.test("the caller's group and conditions that failed are shown, live and from the log", async (t) => {
  const id = await decide("/odd");
  await eventually(async () => (await readFile(decisions, "utf8")).includes(id) || undefined);
  for (const from of [API, ["--log", decisions]]) {
    const { out, err } = await command(["explain", id, ...from]);
    t.match(out, /^principal {3}.*, of everybody$/m, err);
    t.match(out, /^conditions {2}of these rules could not be evaluated: odd$/m);
    t.match(out, /^mode {8}enforce, rule odd, policy p 1$/m);
  }
});

t.test("a live decision is printed as a case that comes out the same, with its caller's past", async (t) => {
  for (let i = 0; i < 5; i++) await decide(`/orders/${i}`);
  const id = await decide("/closed");
  const { code, out, err } = await command(["explain", id, "--as", "case", "--policy", policy, ...API]);
  t.equal(code, 0, err);
  t.match(out, /^# Score [\d.]+ under policy p 1: deny\.$/m);
  t.match(out, /^ {4}path: \/orders\/\{id\}$/m);
  t.match(out, /^ {2}decision: deny$/m);
  const path = join(folder, "case.yaml");
  await writeFile(path, out);
  t.match(await command(["test", path, "--policy", policy]), { code: 0, out: "1 case: all as wanted\n" });
});

t.test("so is one of a decision log; a case that its record alone does not bear out says so", async (t) => {
  const id = await decide("/closed");
  await eventually(async () => (await readFile(decisions, "utf8")).includes(id) || undefined);
  const flags = ["explain", id, "--log", decisions, "--as", "case"];
  const same = await command([...flags, "--policy", policy]);
  t.match(same.out, /^# Its history is the \d+ latest requests/m);
  t.notMatch(same.out, /^# From that alone/m);
  t.match(
    (await command(flags)).out,
    /^# It was decided under p 1: name that policy with --policy\.\n# Its history[\s\S]*^# From that alone the shipped policy decides allow[\s\S]*decision: wanted deny, got allow$/m,
  );
});

t.test("a log of an earlier release, without thresholds, is explained as far as it goes", async (t) => {
  const old = join(folder, "old.log");
  await writeFile(
    old,
    `${JSON.stringify({
      decision_id: "d-1",
      timestamp: "2026-03-02T12:00:00.000Z",
      input: {
        principal: "a|b",
        credential: "none",
        protocol: "tcp",
        method: "CONNECT",
        destination: "db",
        route: "db",
      },
      result: {
        risk: { score: 3, decision: "allow", enforced: "allow", mode: "observe", rule: "default", reasons: [] },
      },
      bundles: { policy: { revision: "r-1" } },
    })}\n`,
  );
  const { out } = await command(["explain", "d-1", "--log", old]);
  t.match(out, /^mode {8}observe, rule default, policy r-1$/m);
  t.notMatch(out, /threshold/);
});

t.test("an unknown form is refused", async (t) => {
  t.match(await command(["explain", "x", "--as", "poem", ...API]), { code: 2, err: /--as: expected text, case/ });
});
