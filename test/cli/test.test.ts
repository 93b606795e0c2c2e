import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { command } from "../support/command.ts";

const CASES = fileURLToPath(new URL("../cases", import.meta.url));
const folder = await mkdtemp(join(tmpdir(), "sallyport-cli-test-"));
t.teardown(() => rm(folder, { recursive: true, force: true }));
const file = async (name: string, text: string): Promise<string> => {
  await writeFile(join(folder, name), text);
  return join(folder, name);
};

t.test("all cases of the shipped policy and of the example beside them come out as wanted", async (t) => {
  const { code, out, err } = await command(["test", CASES, "--output", "json"]);
  const report = JSON.parse(out) as { cases: number; results: { name: string; passed: boolean; steps: unknown }[] };
  t.equal(code, 0, err);
  t.ok(report.cases >= 20);
  for (const { name, passed, steps } of report.results) t.ok(passed, name, { found: steps });
});

const GOOD = "name: let through\ngiven: {principal: spiffe://td/a}\nwant: {decision: allow}\n";
const BAD = `cases:
  - name: <closed> & "gone"
    usual: {principal: spiffe://td/a}
    steps:
      - {given: {}, want: {decision: allow}}
      - {given: {path: /x}, want: {decision: deny, because: [lock]}}
`;

t.test("a failure shows case, step, what was wanted, what came, and all reasons", async (t) => {
  const path = await file("bad.yaml", BAD);
  const { code, out } = await command(["test", path]);
  t.equal(code, 1);
  t.match(out, /^FAILED <closed> & "gone"$/m);
  t.match(out, new RegExp(`^ {2}${path}:2, policy default `, "m"));
  t.match(out, /^ {2}step 2 of 2$/m);
  t.match(out, /^ {4}decision: wanted deny, got allow$/m);
  t.match(out, /^ {4}decided: allow, score [\d.]+, mode enforce, rule default, thresholds 26\/36\/70$/m);
  t.match(out, /^1 case: 1 not as wanted$/m);
});

t.test("results are written as JUnit XML, whatever is in a name", async (t) => {
  const [good, bad, xml] = [await file("good.yaml", GOOD), await file("bad.yaml", BAD), join(folder, "results.xml")];
  t.equal((await command(["test", good, bad, "--junit", xml])).code, 1);
  const text = await readFile(xml, "utf8");
  t.match(text, /^<\?xml version="1\.0" encoding="UTF-8"\?>\n<testsuites>/);
  t.match(text, /<testcase classname="[^"]+" name="let through" [^>]*\/>/);
  t.match(text, /name="&lt;closed&gt; &amp; &quot;gone&quot;"/);
  t.match(text, /<failure message="decision: wanted deny, got allow; because: wanted lock, got [^"]*">/);
});

t.test("a policy is relative to the file that names it; a flag wins over it", async (t) => {
  await mkdir(join(folder, "sub"), { recursive: true });
  const policy = (decision: string): string =>
    `apiVersion: sallyport.dev/v1\nkind: Policy\nmetadata: {name: p}\nspec: {rules: [{name: r, decision: ${decision}}]}\n`;
  await file("denies.yaml", policy("deny"));
  const allows = await file("allows.yaml", policy("allow"));
  const cases = await file(
    join("sub", "cases.yaml"),
    "name: closed\npolicy: ../denies.yaml\ngiven: {principal: a}\nwant: {decision: deny, rule: r}\n",
  );
  t.match(await command(["test", cases]), { code: 0, out: "1 case: all as wanted\n" });
  t.match(await command(["test", cases, "--policy", allows]), { code: 1, out: /wanted deny, got allow/ });
  t.match(await command(["test", folder, "--only", "closed"]), { code: 1 }, "policies in a folder are no cases");
});

t.test("once keys are given, only what they have signed is judged with; so for replay and cost", async (t) => {
  const at = (name: string): string => join(folder, name);
  const policy = await file(
    "signed.yaml",
    "apiVersion: sallyport.dev/v1\nkind: Policy\nmetadata: {name: p}\nspec: {rules: [{name: r, decision: deny}]}\n",
  );
  const [good, alien] = [at("good.bundle"), at("alien.bundle")];
  for (const args of [
    ["keygen", "--out", at("a.key")],
    ["keygen", "--out", at("b.key")],
    ["root", "--key", at("a.key.pub"), "--out", at("keys.json")],
    ["build", policy, "--name", "p", "--revision", "1", "--expires", "30d", "--out", good],
    ["build", policy, "--name", "p", "--revision", "1", "--expires", "30d", "--out", alien],
    ["sign", good, "--key", at("a.key")],
    ["sign", alien, "--key", at("b.key")],
  ]) {
    const { code, err } = await command(["bundle", ...args]);
    t.equal(code, 0, err);
  }
  const cases = await file("signed-case.yaml", "name: x\ngiven: {principal: a}\nwant: {decision: deny, rule: r}\n");
  const rows = await file("none.jsonl", "");
  const keys = ["--bundle-keys", at("keys.json")];
  for (const judged of [
    ["test", cases],
    ["replay", "--requests", rows],
    ["cost", "--requests", rows],
  ]) {
    t.match(await command([...judged, "--policy", good, ...keys]), { code: 0 });
    t.match(await command([...judged, "--policy", alien, ...keys]), { code: 1, err: /ERR_BUNDLE_SIGNATURE/ });
    t.match(await command([...judged, "--policy", policy, ...keys]), { code: 1, err: /policy refused/ }, "unsigned");
  }
});

t.test("what is no case, or is not there, is told", async (t) => {
  const odd = await file("odd.yaml", "name: x\ngivn: {}\n");
  t.match(await command(["test", odd]), {
    code: 1,
    err: /odd\.yaml:2:1 givn: .*did you mean "given"[\s\S]*ERR_CASE_INVALID/,
  });
  t.match(await command(["test", join(folder, "none.yaml")]), { code: 1, err: /ENOENT.*ERR_DATA_UNREADABLE/ });
  t.match(await command(["test", await file("good.yaml", GOOD), "--only", "zzz"]), {
    code: 2,
    err: /found none with "zzz" in its name among 1 in /,
  });
  t.match(await command(["test"]), { code: 2, err: /expected CASES\.\.\., got nothing/ });
});
