/** Tests how a policy and its files are read from disk. */

import { symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { loadPolicy } from "../../src/bundle/load.ts";
import { formatProblem } from "../../src/bundle/problem.ts";

const HEAD = "apiVersion: sallyport.dev/v1\nkind: Policy\nmetadata: { name: a }\n";
const LIST = `${HEAD}spec: { lists: { addresses: [{ name: a, file: data/list.txt }] } }\n`;

t.test("files are found beside the policy, and all that was read is told", async (t) => {
  const folder = t.testdir({ "policy.yaml": LIST, data: { "list.txt": "192.0.2.0/24\n" } });
  const result = await loadPolicy(join(folder, "policy.yaml"));
  t.ok(result.ok);
  if (!result.ok) return;
  t.equal(result.policy.addresses.lookup("192.0.2.7")?.list, "a");
  t.same(result.files, [join(folder, "policy.yaml"), join(folder, "data/list.txt")]);
  t.equal(result.policy.revision, `sha256:${result.digest.slice(0, 12)}`);
});

t.test("the revision by content changes with every file, and with nothing else", async (t) => {
  const folder = t.testdir({ "policy.yaml": LIST, data: { "list.txt": "192.0.2.0/24\n" } });
  const path = join(folder, "policy.yaml");
  const revision = async (): Promise<string | undefined> => {
    const result = await loadPolicy(path);
    return result.ok ? result.policy.revision : undefined;
  };
  const first = await revision();
  t.match(first, /^sha256:[0-9a-f]{12}$/);
  t.equal(await revision(), first);
  writeFileSync(join(folder, "data/list.txt"), "192.0.2.0/25\n");
  const second = await revision();
  t.not(second, first);
  writeFileSync(path, `${LIST}# a comment\n`);
  t.not(await revision(), second);
  writeFileSync(path, LIST.replace("name: a }\n", "name: a, revision: r7 }\n"));
  t.equal(await revision(), "r7", "a stated revision stays as it is stated");
});

const refusals = [
  {
    name: "a policy that is not there",
    files: {},
    says: "policy.yaml: expected a file that can be read, got no such file",
  },
  {
    name: "a folder",
    files: { "policy.yaml": {} },
    says: "policy.yaml: expected a folder with policy.yaml or a *.bundle file, got neither",
  },
  {
    name: "bytes that are no text",
    files: { "policy.yaml": Buffer.from([0xc3, 0x28]) },
    says: "policy.yaml: expected UTF-8 text, got other bytes",
  },
  {
    name: "a text that is too long",
    files: { "policy.yaml": "#".repeat(5_242_881) },
    says: "policy.yaml: expected a file that can be read, got 5242881 bytes, more than 5242880",
  },
  {
    name: "a missing list",
    files: { "policy.yaml": LIST },
    says: "policy.yaml:4:47 spec.lists.addresses[0].file: expected a file that can be read, got no such file",
  },
  {
    name: "a faulty list",
    files: { "policy.yaml": LIST, data: { "list.txt": "x\n" } },
    says: 'data/list.txt:1: expected an address or a CIDR range, got "x"',
  },
];
for (const { name, files, says } of refusals) {
  t.test(`${name} is refused in words`, async (t) => {
    const folder = t.testdir(files);
    const result = await loadPolicy(join(folder, "policy.yaml"));
    t.same(result.ok ? [] : result.problems.map((problem) => formatProblem(problem).replace(`${folder}/`, "")), [says]);
  });
}

t.test("a link that leads to itself is refused", async (t) => {
  const folder = t.testdir({});
  symlinkSync("policy.yaml", join(folder, "policy.yaml"));
  const result = await loadPolicy(join(folder, "policy.yaml"));
  t.match(result, { ok: false, problems: [{ got: "ELOOP" }] });
});
