/** Tests that the schema for editors and the checker agree. */

import { readFileSync } from "node:fs";
import t from "tap";
import { parse } from "yaml";
import { EXAMPLE_POLICY_TEXT } from "../../scripts/docs.ts";
import { DEFAULT_POLICY_TEXT } from "../../src/bundle/default-policy.ts";
import { parsePolicy } from "../../src/bundle/parse.ts";
import { misfits } from "../support/json-schema.ts";

const SCHEMA = JSON.parse(readFileSync(new URL("../../docs/policy.schema.json", import.meta.url), "utf8")) as Record<
  string,
  unknown
>;
const HEAD = "apiVersion: sallyport.dev/v1\nkind: Policy\nmetadata: { name: a }\n";

const good: readonly { name: string; text: string }[] = [
  { name: "the shipped policy", text: DEFAULT_POLICY_TEXT },
  { name: "the example on one screen", text: EXAMPLE_POLICY_TEXT },
  { name: "a policy of every field", text: readFileSync(new URL("full-policy.yaml", import.meta.url), "utf8") },
  { name: "a policy without a spec", text: HEAD },
  {
    name: "plain values where texts are wanted",
    text: `${HEAD}spec: { posture: { forbid: [{ name: a, fact: b, in: [1, true] }] } }`,
  },
  {
    name: "a rule with everything",
    text: `${HEAD}spec: { rules: [{ name: a, when: "score > 1", onError: match, mode: observe, challenge: { kinds: [forward] }, response: { headers: { x-a: b }, deny: { text: no } } }] }`,
  },
];
for (const { name, text } of good) {
  t.test(`${name} is good by both`, async (t) => {
    t.same(misfits(parse(text), SCHEMA), []);
    t.ok(parsePolicy(text, "policy.yaml").ok);
  });
}

const bad: readonly string[] = [
  "mode: monitor",
  "mode: 1",
  "mode:",
  "thersholds: {}",
  "thresholds: { deny: 140 }",
  "thresholds: { deny: high }",
  "thresholds: 30",
  "rules: { name: a }",
  "rules: [{ name: a }]",
  "rules: [{ watch: true }]",
  "rules: [{ name: a, watch: yes }]",
  "rules: [{ name: a, decision: terminate }]",
  "rules: [{ name: '', watch: true }]",
  "rules: [{ name: a, watch: true, onError: maybe }]",
  "rules: [{ name: a, watch: true, when: 7 }]",
  'rules: [{ name: a, watch: true, match: { routes: ["/a b"] } }]',
  'rules: [{ name: a, watch: true, match: { routes: [""] } }]',
  `rules: [{ name: a, watch: true, match: { routes: ["${"*a".repeat(17)}"] } }]`,
  "rules: [{ name: a, watch: true, match: { methods: [G-T] } }]",
  "rules: [{ name: a, challenge: { kind: stepup } }]",
  "rules: [{ name: a, signals: { origin.adress: {} } }]",
  "peerGroups: [{ name: a }]",
  "peerGroups: [{ name: a, principals: [] }]",
  "signals: { orign: { mode: observe } }",
  "signals: { origin: { capBits: 64.5 } }",
  "identity: { issuers: [{ issuer: i, jwks: {} }] }",
  "identity: { issuers: [{ issuer: i, jwks: { file: a, url: https://b } }] }",
  "identity: { issuers: [{ issuer: i, jwks: { url: ftp://b } }] }",
  "identity: { issuers: [{ issuer: i, jwks: { file: a }, algorithms: [HS256] }] }",
  "identity: { apiKeys: { keys: [{ name: a, sha256: x }] } }",
  "identity: { trustDomains: [{ name: PROD, anchors: { file: a } }] }",
  "identity: { singleUseIssuers: [a, a] }",
  "challenge: { triesMax: 0 }",
  "challenge: { triesMax: 1.5 }",
  "challenge: { ttl: 5 minutes }",
  "challenge: { ttl: 30 }",
  "posture: { forbid: [{ name: a, fact: b }] }",
  "posture: { forbid: [{ name: a, fact: b, in: [1], notIn: [2] }] }",
  "posture: { facts: [{ subject: a, reportedAt: soon }] }",
  "lists: { addresses: [{ name: a }] }",
  "lists: { addresses: [{ name: a, ranges: [example.org] }] }",
  "lists: { addresses: [{ name: a, file: b, format: tsv }] }",
  "locks: [{ id: a, reason: b, scope: {} }]",
  "locks: [{ id: a, reason: b, scope: { address: nowhere } }]",
  'response: { headers: { "a b": c } }',
  'response: { headers: { a: "b\\n" } }',
  "response: { deny: { status: 500 } }",
];
for (const spec of bad) {
  t.test(`\`${spec.slice(0, 80)}\` is bad by both`, async (t) => {
    const text = `${HEAD}spec:\n  ${spec}\n`;
    t.notOk(parsePolicy(text, "policy.yaml").ok, "by check");
    t.not(misfits(parse(text), SCHEMA).length, 0, "by the schema");
  });
}

t.test("every part of the schema is closed and described", async (t) => {
  for (const [name, definition] of Object.entries(SCHEMA.$defs as Record<string, Record<string, unknown>>)) {
    t.equal(definition.additionalProperties, false, name);
    t.ok(definition.description, name);
    for (const [key, property] of Object.entries(definition.properties as Record<string, Record<string, unknown>>)) {
      t.ok(property.description, `${name}.${key}`);
    }
  }
});
