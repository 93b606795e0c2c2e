import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { startSidecarProcess } from "../../scripts/demo/sidecar.ts";
import { checkBytes, checkClient } from "../support/check-client.ts";
import { command } from "../support/command.ts";
import { eventually } from "../support/guarded.ts";

const folder = await mkdtemp(join(tmpdir(), "sallyport-cli-shadow-"));
const policyFile = async (name: string, spec: string): Promise<string> => {
  const path = join(folder, `${name}.yaml`);
  await writeFile(
    path,
    `apiVersion: sallyport.dev/v1\nkind: Policy\nmetadata: {name: ${name}, revision: "1"}\nspec: ${spec}\n`,
  );
  return path;
};
const decisions = join(folder, "decisions.log");
const sidecar = await startSidecarProcess({
  name: "sidecar",
  folder,
  policy: await policyFile("active", "{}"),
  flags: [
    "--decision-log",
    decisions,
    // On a busy machine a request may be answered by what its session stands at, and no candidate is asked then.
    "--overload-delay",
    "10s",
    "--shadow",
    await policyFile("candidate", '{rules: [{name: closed, match: {routes: ["/closed"]}, decision: deny}]}'),
  ],
});
const client = checkClient(sidecar.extAuthz);
t.teardown(async () => {
  client.close();
  await sidecar.stop();
  await rm(folder, { recursive: true, force: true });
});
const API = ["--api", sidecar.api];

t.test("a candidate beside the policy in force is asked, counted, logged and shown, and never obeyed", async (t) => {
  t.equal(await client.decision(checkBytes({ path: "/open" })), "allow");
  const answer = await client.send(checkBytes({ path: "/closed" }));
  if (typeof answer === "number") throw new Error(`failed with ${answer}`);
  t.equal(String(answer.dynamicMetadata?.decision), "allow");
  const id = String(answer.dynamicMetadata?.decision_id);

  const text = await command(["shadow", ...API]);
  t.equal(text.code, 0, text.err);
  t.match(text.out, /^candidate {3}candidate 1$/m);
  t.match(text.out, /^asked {7}2 requests, 0 not judged$/m);
  t.match(text.out, /^otherwise {3}1 \(50\.00 %\)$/m);
  t.match(text.out, /^allow -> deny: 1$/m);
  t.match(text.out, new RegExp(`spiffe://td/web  orders GET /closed  from 10\\.0\\.0\\.1.*${id}$`, "m"));
  t.match(text.out, /^ {4}candidate: deny [\d.]+, rule closed/m);
  t.notMatch((await command(["shadow", "--counts", ...API])).out, id);
  t.match(JSON.parse((await command(["shadow", "--output", "json", ...API])).out), {
    loaded: true,
    policy_name: "candidate",
    checks: "2",
    differences: [{ active: "allow", candidate: "deny", requests: "1", samples: [{ decision_id: id }] }],
  });

  t.match(
    (await command(["explain", id, ...API])).out,
    /^candidate {3}candidate 1 would deny: score [\d.]+, rule closed$/m,
  );
  const line = await eventually(async () => {
    const lines = (await readFile(decisions, "utf8")).split("\n");
    return lines.find((candidate) => candidate.includes(id));
  });
  t.match(JSON.parse(line), {
    result: { risk: { decision: "allow" } },
    shadow: { revision: "1", decision: "deny", score: Number },
  });
  const metrics = await (await fetch(`http://${sidecar.health}/metrics`)).text();
  t.match(metrics, /^sallyport_shadow_checks_total 2$/m);
  t.match(metrics, /^sallyport_shadow_differences_total\{active="allow",candidate="deny"\} 1$/m);
});

t.test("without a candidate there is nothing to show", async (t) => {
  const plain = await startSidecarProcess({ name: "plain", folder });
  t.teardown(() => plain.stop());
  t.match(await command(["shadow", "--api", plain.api]), {
    code: 1,
    err: /no candidate policy.*--shadow.*ERR_NOT_FOUND/,
  });
});
