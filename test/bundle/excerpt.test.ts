/** Tests that the place of a problem is shown, and never a line that may hold a secret. */

import t from "tap";
import { excerptOf } from "../../src/bundle/excerpt.ts";
import { parsePolicy } from "../../src/bundle/parse.ts";

const HEAD = "apiVersion: sallyport.dev/v1\nkind: Policy\nmetadata: { name: a }\nspec:\n";

/** What is shown of a policy that is wrong. */
function shown(spec: string): readonly string[] {
  const text = `${HEAD}${spec}\n`;
  const result = parsePolicy(text, "policy.yaml");
  if (result.ok) throw new Error("the policy is good");
  return result.problems.flatMap((problem) => [...(excerptOf(problem, text.split("\n")) ?? [])]);
}

t.test("the caret stands under the place", async (t) => {
  t.same(shown("  thresholds: { deny: 140 }"), ["  5 |   thresholds: { deny: 140 }", "    |                       ^"]);
});

const whens: readonly { name: string; spec: string; under: string }[] = [
  { name: "plain", spec: 'when: request.methd == "GET"', under: "methd" },
  { name: "in single quotes", spec: "when: 'request.methd == \"GET\"'", under: "methd" },
  { name: "in double quotes", spec: "when: \"request.methd == 'GET'\"", under: "methd" },
  { name: "as a block", spec: 'when: |\n        true &&\n          request.methd == "GET"', under: "methd" },
  { name: "as a folded line", spec: 'when: >-\n        request.methd == "GET"', under: "methd" },
];
for (const { name, spec, under } of whens) {
  t.test(`a condition written ${name} is pointed into`, async (t) => {
    const [line = "", caret = ""] = shown(`  rules:\n    - name: r\n      watch: true\n      ${spec}`);
    t.equal(line.slice(caret.indexOf("^")).slice(0, under.length), under);
  });
}

t.test("a condition with escapes is pointed at as a whole, with the character in words", async (t) => {
  const spec = '  rules: [{ name: r, watch: true, when: "request.methd == \\"GET\\"" }]';
  const result = parsePolicy(`${HEAD}${spec}\n`, "policy.yaml");
  t.match(result, { ok: false, problems: [{ line: 5, column: 41, expected: /at character 9 of the text$/ }] });
});

t.test("a long line is cut around the place, and nothing in it steers the terminal", async (t) => {
  const [line = "", caret = ""] = shown(
    `  rules: [{ name: a, watch: true }, ${"{ watch: true }, ".repeat(20)}{ name: "\u001b[2J\u202ea b", watch: true }]`,
  );
  t.ok(line.length <= 112, line);
  t.match(line, /…/);
  t.ok(caret.endsWith("^"));
  t.notMatch(shown(`  autoLock: "\u202e1x"`).join("\n"), /\u202e/);
});

const secrets = [
  "  identity: { apiKeys: { keys: [{ name: a, sha256: hunter2 }] } }",
  "  identity: { apiKeys: hunter2 }",
  "  identity:\n    apiKeys:\n      keys:\n        - name: a\n          sha256:\n            hunter2",
  "  identity: { issuers: [{ issuer: a, jwks: { inline: 'hunter2 {' } }] }",
  "  identity: { issuers: [{ issuer: a, jwks: hunter2 }] }",
  "  identity: { apiKeys: { keys: [{ name: a, sha256: 'hunter2 }] } }",
  "  identity:\n    apiKeys:\n      keys:\n        - { name: a,\n  sha256:\n hunter2: : }",
  "  sha256: hunter2",
  "  token: hunter2",
  "  challenge: { ttl: hunter2AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA }",
];
for (const secret of secrets) {
  t.test(`nothing is shown of ${JSON.stringify(secret)}`, async (t) => {
    t.notMatch(shown(secret).join("\n"), /hunter2/);
  });
}
