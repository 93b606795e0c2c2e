/** Tests how policy text is read: every mistake is told once, with its place. */

import { readFileSync } from "node:fs";
import t from "tap";
import { parseFacts, parsePolicy } from "../../src/bundle/parse.ts";
import { formatProblem } from "../../src/bundle/problem.ts";

const HEAD = "apiVersion: sallyport.dev/v1\nkind: Policy\nmetadata: { name: a }\n";

/** What is said of a text. */
function said(text: string): readonly string[] {
  const result = parsePolicy(text, "policy.yaml");
  return result.ok ? [] : result.problems.map(formatProblem);
}

const KEYS =
  "mode, thresholds, rules, signals, identity, challenge, posture, lists, geo, locks, autoLock, autoLockScope, response, peerGroups, streams";
const RULE_KEYS = "name, match, mode, thresholds, decision, watch, when, signals, challenge, response, onError";
const ALGORITHMS = "RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA, Ed25519";
const ISSUER = "identity: { issuers: [{ issuer: i, jwks: { url: https://i.example/k }";
const JWKS = "identity: { issuers: [{ issuer: i, jwks: ";
const KEY_SET = "a JSON Web Key Set of 1..1000 public keys";
const URL_WANTED = "an https URL (or http to loopback) without user information";

/** One fault in `spec`, which starts on line 5; the column counts from the start of that line. */
const specs = [
  { spec: "mode: monitor", says: '5:9 spec.mode: expected one of enforce, observe, got "monitor"' },
  {
    spec: "mode: enforced",
    says: '5:9 spec.mode: expected one of enforce, observe, got "enforced"; did you mean "enforce"?',
  },
  { spec: "mode: unspecified", says: '5:9 spec.mode: expected one of enforce, observe, got "unspecified"' },
  { spec: "mode: 1", says: "5:9 spec.mode: expected one of enforce, observe, got 1" },
  { spec: "mode:", says: "5:8 spec.mode: expected one of enforce, observe, got nothing" },
  {
    spec: "thersholds: {}",
    says: '5:3 spec.thersholds: expected a known key, got "thersholds"; did you mean "thresholds"?',
  },
  { spec: "zzz: {}", says: `5:3 spec.zzz: expected one of the keys ${KEYS}, got "zzz"` },
  { spec: "mode: observe\n  mode: enforce", says: '6:3 spec.mode: expected each key once, got a second "mode"' },
  { spec: "thresholds: { deny: 140 }", says: "5:23 spec.thresholds.deny: expected 0..100, got 140" },
  { spec: "thresholds: { deny: 100.5 }", says: "5:23 spec.thresholds.deny: expected 0..100, got 100.5" },
  { spec: "thresholds: { challenge: -0.5 }", says: "5:28 spec.thresholds.challenge: expected 0..100, got -0.5" },
  { spec: "thresholds: { deny: high }", says: '5:23 spec.thresholds.deny: expected a number, got "high"' },
  { spec: 'thresholds: { deny: "50" }', says: '5:23 spec.thresholds.deny: expected a number, got "50"' },
  { spec: "thresholds: { deny: .nan }", says: "5:23 spec.thresholds.deny: expected a number, got .nan" },
  { spec: "thresholds: 30", says: "5:15 spec.thresholds: expected a mapping, got a number" },
  { spec: "thresholds: { challenge: 37 }", says: "5:28 spec.thresholds.challenge: expected at most deny (36), got 37" },
  { spec: "thresholds: { deny: 25 }", says: "5:23 spec.thresholds.deny: expected at least challenge (26), got 25" },
  {
    spec: "thresholds: { terminate: 35 }",
    says: "5:28 spec.thresholds.terminate: expected at least deny (36), got 35",
  },
  { spec: "rules: { name: a }", says: "5:10 spec.rules: expected a list, got a mapping" },
  {
    spec: "rules: [{ name: a }]",
    says: "5:11 spec.rules[0]: expected at least one of mode, thresholds, decision, watch, signals, challenge, response, got none of them",
  },
  {
    spec: "rules: [{ nmae: a, watch: true }]",
    says: '5:13 spec.rules[0].nmae: expected a known key, got "nmae"; did you mean "name"?',
  },
  {
    spec: "rules: [{ name: a, watch: true, x: 1 }]",
    says: `5:35 spec.rules[0].x: expected one of the keys ${RULE_KEYS}, got "x"`,
  },
  { spec: "rules: [{ name: a, watch: yes }]", says: '5:29 spec.rules[0].watch: expected true or false, got "yes"' },
  {
    spec: "rules: [{ name: a, watch: true }, { name: a, watch: true }]",
    says: '5:45 spec.rules[1].name: expected another name than spec.rules[0], got "a"',
  },
  {
    spec: "rules: [{ watch: true }]",
    says: "5:11 spec.rules[0].name: expected a text of 1..63 characters like ^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$, got nothing",
  },
  {
    spec: "rules: [{ name: a, decision: terminate }]",
    says: '5:32 spec.rules[0].decision: expected one of allow, challenge, deny, got "terminate"',
  },
  {
    spec: "rules: [{ name: a, thresholds: { deny: 10 } }]",
    says: "5:42 spec.rules[0].thresholds.deny: expected at least challenge (26), got 10",
  },
  {
    spec: 'rules: [{ name: a, watch: true, match: { routes: ["/a b"] } }]',
    says: '5:53 spec.rules[0].match.routes[0]: expected a glob of 1..512 printable characters with at most 16 wildcards, got "/a b"',
  },
  {
    spec: 'rules: [{ name: a, watch: true, match: { routes: [""] } }]',
    says: '5:53 spec.rules[0].match.routes[0]: expected a text of 1..512 characters, got ""',
  },
  {
    spec: "rules: [{ name: a, watch: true, match: { routes: [7] } }]",
    says: "5:53 spec.rules[0].match.routes[0]: expected a text, got 7",
  },
  {
    spec: "rules: [{ name: a, watch: true, when: '' }]",
    says: '5:41 spec.rules[0].when: expected a condition, or no `when` for a rule without one, got ""',
  },
  {
    spec: "rules: [{ name: a, watch: true, when: requst.path == user_agent }]",
    says: '5:41 spec.rules[0].when: expected a known variable, got "requst"; did you mean "request"?',
  },
  {
    spec: "rules: [{ name: a, watch: true, when: 'true && request.paht == user_agent' }]",
    says: '5:58 spec.rules[0].when: expected a part of request, got "paht"; did you mean "path"?',
  },
  {
    spec: "rules: [{ name: a, watch: true, when: score + 1 > 20.0 }]",
    says: '5:49 spec.rules[0].when: expected a number with decimals, got a whole number; did you mean "double(…), or a literal such as 20.0"?',
  },
  {
    spec: "rules: [{ name: a, when: score > 20, signals: { origin: { mode: observe } } }]",
    says: '5:28 spec.rules[0].when: expected no `score` and no `readings` in a rule that changes `signals`: it is looked for before, got "score > 20"',
  },
  {
    spec: "rules: [{ name: a, watch: true, onError: match }]",
    says: '5:44 spec.rules[0].onError: expected a `when` that it is about, got "match"',
  },
  {
    spec: "rules: [{ name: a, signals: { orign: {} } }]",
    says: '5:33 spec.rules[0].signals.orign: expected a known signal or family, got "orign"; did you mean "origin"?',
  },
  {
    spec: "peerGroups: [{ name: web, principals: [a] }]\n  rules: [{ name: a, watch: true, match: { peerGroups: [wbe] } }]",
    says: '6:57 spec.rules[0].match.peerGroups[0]: expected the name of one of `spec.peerGroups`, got "wbe"; did you mean "web"?',
  },
  {
    spec: "peerGroups: [{ name: web, principals: [a] }, { name: web, principals: [b] }]",
    says: '5:56 spec.peerGroups[1].name: expected another name than spec.peerGroups[0], got "web"',
  },
  {
    spec: "challenge: { kinds: [foward] }",
    says: '5:24 spec.challenge.kinds[0]: expected one of step_up, forward, dpop, http_signature, certificate_bound, got "foward"; did you mean "forward"?',
  },
  {
    spec: "rules: [{ name: a, challenge: { publicOrigins: [https://a.example] } }]",
    says: "5:50 spec.rules[0].challenge.publicOrigins: expected none: they are the policy's, got some",
  },
  {
    spec: "response: { headers: { Transfer-Encoding: chunked } }",
    says: '5:26 spec.response.headers.Transfer-Encoding: expected a header that Envoy and Sallyport do not set themselves, got "Transfer-Encoding"',
  },
  {
    spec: 'response: { headers: { ":status": "200" } }',
    says: '5:26 spec.response.headers[":status"]: expected a text of 1..128 characters like ^[A-Za-z0-9!#$%&\'*+.^_`|~-]+$, got ":status"',
  },
  {
    spec: "response: { headers: { x-a: b, X-A: c } }",
    says: '5:34 spec.response.headers.X-A: expected each header once, got another "x-a"',
  },
  {
    spec: 'response: { deny: { text: "{principle} is denied" } }',
    says: '5:29 spec.response.deny.text: expected one of {decision_id}, {decision}, {principal}, got "{principle}"; did you mean "{principal}"?',
  },
  { spec: "rules: [a]", says: "5:11 spec.rules[0]: expected a mapping, got a text" },
  {
    spec: "signals: { origin.adress: {} }",
    says: '5:14 spec.signals["origin.adress"]: expected a known signal or family, got "origin.adress"; did you mean "origin.address"?',
  },
  {
    spec: "signals: { orign: { mode: observe } }",
    says: '5:14 spec.signals.orign: expected a known signal or family, got "orign"; did you mean "origin"?',
  },
  {
    spec: "signals: { origin: { capBits: 64.5 } }",
    says: "5:33 spec.signals.origin.capBits: expected 0..64, got 64.5",
  },
  {
    spec: "signals: { origin: { mode: no } }",
    says: '5:30 spec.signals.origin.mode: expected one of enforce, observe, off, got "no"',
  },
  {
    spec: `${ISSUER}, algorithms: [none] }] }`,
    says: `5:87 spec.identity.issuers[0].algorithms[0]: expected one of ${ALGORITHMS}, got "none"`,
  },
  {
    spec: `${ISSUER}, algorithms: [ES256, HS256] }] }`,
    says: `5:94 spec.identity.issuers[0].algorithms[1]: expected one of ${ALGORITHMS}, got "HS256"`,
  },
  {
    spec: `${ISSUER}, clockTolerance: 601s }] }`,
    says: '5:90 spec.identity.issuers[0].clockTolerance: expected 0s..10m, got "601s"',
  },
  {
    spec: `${ISSUER} }, { issuer: i, jwks: { file: k } }] }`,
    says: '5:86 spec.identity.issuers[1].issuer: expected another issuer than spec.identity.issuers[0], got "i"',
  },
  {
    spec: `${JWKS}{} }] }`,
    says: "5:44 spec.identity.issuers[0].jwks: expected one of file, url, inline, got a mapping",
  },
  {
    spec: `${JWKS}{ file: a, url: https://b } }] }`,
    says: '5:55 spec.identity.issuers[0].jwks: expected only one of file, url, inline, got a further one, "url"',
  },
  {
    spec: `${JWKS}{ url: http://i.example } }] }`,
    says: `5:51 spec.identity.issuers[0].jwks.url: expected ${URL_WANTED}, got "http://i.example"`,
  },
  {
    spec: `${JWKS}{ url: https://me:hunter2@i.example } }] }`,
    says: `5:51 spec.identity.issuers[0].jwks.url: expected ${URL_WANTED}, got a URL with user information`,
  },
  {
    spec: `${JWKS}{ inline: "hunter2" } }] }`,
    says: `5:54 spec.identity.issuers[0].jwks.inline: expected ${KEY_SET}, got a text that is not JSON`,
  },
  {
    spec: `${JWKS}{ inline: '{"keys":[]}' } }] }`,
    says: `5:54 spec.identity.issuers[0].jwks.inline: expected ${KEY_SET}, got 0 keys`,
  },
  {
    spec: `${JWKS}{ inline: '{"keys":[{"kty":"oct","k":"x"}]}' } }] }`,
    says: `5:54 spec.identity.issuers[0].jwks.inline: expected ${KEY_SET}, got a symmetric key in keys[0]`,
  },
  {
    spec: `${JWKS}{ inline: '{"keys":[{"kty":"EC","d":"x"}]}' } }] }`,
    says: `5:54 spec.identity.issuers[0].jwks.inline: expected ${KEY_SET}, got a private key in keys[0]`,
  },
  {
    spec: "identity: { apiKeys: { keys: [{ name: a, sha256: hunter2 }] } }",
    says: "5:52 spec.identity.apiKeys.keys[0].sha256: expected a text like ^[0-9A-Fa-f]{64}$, got a value of 7 characters",
  },
  {
    spec: "identity: { apiKeys: { keys: [hunter2] } }",
    says: "5:33 spec.identity.apiKeys.keys[0]: expected a mapping, got a text",
  },
  { spec: "challenge: { triesMax: 0 }", says: "5:26 spec.challenge.triesMax: expected 1..100, got 0" },
  { spec: "challenge: { triesMax: 1.5 }", says: "5:26 spec.challenge.triesMax: expected a whole number, got 1.5" },
  {
    spec: "challenge: { ttl: 5 minutes }",
    says: '5:21 spec.challenge.ttl: expected a duration such as 30s, 5m, 12h or 7d, got "5 minutes"',
  },
  {
    spec: "challenge: { ttl: 30 }",
    says: "5:21 spec.challenge.ttl: expected a duration such as 30s, 5m, 12h or 7d, got 30",
  },
  { spec: "challenge: { ttl: 25h }", says: '5:21 spec.challenge.ttl: expected 1s..1d, got "25h"' },
  {
    spec: "posture: { forbid: [{ name: a, fact: b }] }",
    says: "5:23 spec.posture.forbid[0]: expected either `in` or `notIn` with values, got neither",
  },
  {
    spec: "posture: { forbid: [{ name: a, fact: b, in: [1], notIn: [2] }] }",
    says: "5:23 spec.posture.forbid[0]: expected either `in` or `notIn` with values, got both",
  },
  {
    spec: "posture: { facts: [{ subject: a, reportedAt: 2030-02-30T00:00:00Z }] }",
    says: '5:48 spec.posture.facts[0].reportedAt: expected a time such as 2030-01-31T12:00:00Z, got "2030-02-30T00:00:00Z"',
  },
  {
    spec: "lists: { addresses: [{ name: a }] }",
    says: "5:24 spec.lists.addresses[0]: expected `ranges` or `file`, got neither",
  },
  {
    spec: "lists: { addresses: [{ name: a, ranges: [10.0.0.0/33] }] }",
    says: '5:44 spec.lists.addresses[0].ranges[0]: expected an address or a CIDR range, got "10.0.0.0/33"',
  },
  {
    spec: "lists: { addresses: [{ name: a, action: deny, ranges: [] }] }",
    says: '5:43 spec.lists.addresses[0].action: expected one of block, score, got "deny"',
  },
  {
    spec: "locks: [{ id: a, reason: b, scope: {} }]",
    says: "5:38 spec.locks[0].scope: expected at least one of principal, credential, certificate, fingerprint, address, destination, key, peerGroup, got none of them",
  },
  {
    spec: 'locks: [{ id: a, reason: b, scope: { principal: "" } }]',
    says: "5:38 spec.locks[0].scope: expected at least one of principal, credential, certificate, fingerprint, address, destination, key, peerGroup, got none of them",
  },
  {
    spec: "locks: [{ id: a, reason: b, scope: { address: 10.0.0 } }]",
    says: '5:49 spec.locks[0].scope.address: expected an address or a CIDR range, got "10.0.0"',
  },
  { spec: "autoLock: 366d", says: '5:13 spec.autoLock: expected 1s..365d, got "366d"' },
  { spec: "autoLock: 0s", says: '5:13 spec.autoLock: expected 1s..365d, got "0s"' },
  { spec: "response: { upstreamHeaders: *nope }", says: '5:32: expected an alias of an earlier anchor, got "*nope"' },
  { spec: "? [a]\n  : 1", says: "5:5 spec: expected keys that are names, got a list of 1" },
  { spec: "signals: { __proto__: {} }", says: '5:14 spec.signals: expected keys that are names, got "__proto__"' },
  {
    spec: "mode: [observe",
    says: "6:1: expected valid YAML, got a wrong indentation, or a bracket that is not closed",
  },
  {
    spec: "mode: !!js/function x",
    says: "5:9: expected valid YAML, got an unknown tag, or a value that does not fit it",
  },
];
for (const { spec, says } of specs) {
  t.test(`\`${spec}\` is refused with its place`, async (t) => {
    t.same(said(`${HEAD}spec:\n  ${spec}\n`), [`policy.yaml:${says}`]);
  });
}

const texts = [
  { text: "", says: ["policy.yaml:1:1: expected a mapping, got an empty file"] },
  { text: "- a\n", says: ["policy.yaml:1:1: expected a mapping, got a list of 1"] },
  { text: "hunter2\n", says: ["policy.yaml:1:1: expected a mapping, got a text"] },
  { text: `${HEAD}---\n${HEAD}`, says: ["policy.yaml:4:1: expected one document, got 2 documents"] },
  {
    text: HEAD.replace("v1", "v2"),
    says: ['policy.yaml:1:13 apiVersion: expected "sallyport.dev/v1", got "sallyport.dev/v2"'],
  },
  { text: HEAD.replace("Policy", "Bundle"), says: ['policy.yaml:2:7 kind: expected "Policy", got "Bundle"'] },
  {
    text: "kind: Policy\nmetadata: { name: a }\n",
    says: ['policy.yaml:1:1 apiVersion: expected "sallyport.dev/v1", got nothing'],
  },
  { text: "[".repeat(101), says: ["policy.yaml: expected values nested at most 100 deep, got deeper nesting"] },
  { text: "[".repeat(5_000_000), says: ["policy.yaml: expected values nested at most 100 deep, got deeper nesting"] },
  { text: `${"- ".repeat(101)}a`, says: ["policy.yaml: expected values nested at most 100 deep, got deeper nesting"] },
  { text: `[${"a,".repeat(500_000)}]`, says: ["policy.yaml: expected at most 500000 YAML tokens, got more"] },
  { text: `#${"x".repeat(5_242_880)}`, says: ["policy.yaml: expected at most 5242880 bytes, got 5242881"] },
];
for (const { text, says } of texts) {
  t.test(`\`${text.slice(0, 40)}\` (${text.length} characters) is refused as a whole`, async (t) => {
    t.same(said(text), says);
  });
}

t.test("all mistakes are told at once, in the order of the text", async (t) => {
  const text = `${HEAD.replace("v1", "v9")}spec:
  mode: observ
  rules:
    - { name: a, decision: allow, thresholds: { deny: 140 } }
    - { name: a, watch: 1 }
  challenge: { ttl: soon, triesMax: 0 }
`;
  t.same(said(text), [
    'policy.yaml:1:13 apiVersion: expected "sallyport.dev/v1", got "sallyport.dev/v9"',
    'policy.yaml:5:9 spec.mode: expected one of enforce, observe, got "observ"; did you mean "observe"?',
    "policy.yaml:7:55 spec.rules[0].thresholds.deny: expected 0..100, got 140",
    'policy.yaml:8:15 spec.rules[1].name: expected another name than spec.rules[0], got "a"',
    "policy.yaml:8:25 spec.rules[1].watch: expected true or false, got 1",
    'policy.yaml:9:21 spec.challenge.ttl: expected a duration such as 30s, 5m, 12h or 7d, got "soon"',
    "policy.yaml:9:37 spec.challenge.triesMax: expected 1..100, got 0",
  ]);
});

t.test("beyond 1,000 mistakes the rest is counted", async (t) => {
  const text = `${HEAD}spec: { rules: [${"1,".repeat(1_500)}] }`;
  const lines = said(text);
  t.equal(lines.length, 1_001);
  t.equal(lines[1_000], "policy.yaml: expected no other problems, got 500 more");
});

t.test("ten thousand different conditions are accepted, and what they may cost together is bounded", async (t) => {
  const rules = (count: number, when: (index: number) => string) =>
    `${HEAD}spec:\n  rules:\n${Array.from({ length: count }, (_, index) => `    - { name: r${index}, watch: true, when: '${when(index)}' }\n`).join("")}`;
  t.same(said(rules(10_000, (index) => `source.port == ${index}`)), []);
  const dear = said(rules(600, (index) => `request.path.matches("^/a${index}")`));
  t.equal(dear.length, 1);
  t.match(
    dear[0],
    /^policy\.yaml:\d+:\d+ spec\.rules\[\d+\]\.when: expected conditions of at most 500000 operations in all, got more$/,
  );
  const long = said(rules(300, (index) => `user_agent != "${"x".repeat(3_500)}${index}"`));
  t.match(long[0], /expected conditions of at most 1000000 characters in all, got more$/);
  t.equal(long.length, 1);
});

t.test("aliases are followed, but not for more than 10,000 values in all", async (t) => {
  const rule = "{ mode: observe, match: { routes: [/a, /b] }, name: ";
  t.same(said(`${HEAD}spec:\n  thresholds: &t { deny: 60 }\n  rules: [{ name: a, thresholds: *t }]\n`), []);
  const many = `${HEAD}spec:\n  rules:\n    - ${rule}a, thresholds: &t { deny: 60 } }\n`;
  const text = `${many}${Array.from({ length: 3_000 }, (_, index) => `    - { name: r${index}, thresholds: *t }\n`).join("")}`;
  t.same(
    said(text).map((line) => line.replace(/:\d+:\d+/, "")),
    ["policy.yaml: expected aliases for at most 10000 values, got more"],
  );
});

t.test("aliases of aliases that would stand for billions are refused at once", async (t) => {
  let text = `${HEAD}spec:\n  rules: &x0 [a, a, a, a, a, a, a, a, a, a]\n`;
  for (let level = 1; level < 12; level++) {
    text += `  x${level}: &x${level} [${Array.from({ length: 10 }, () => `*x${level - 1}`).join(", ")}]\n`;
  }
  t.equal(said(text).length, 21, "ten texts in place of rules, and eleven unknown keys");
});

t.test("an alias of what encloses it ends where the schema ends", async (t) => {
  t.same(said(`${HEAD}spec: &a\n  thresholds: *a\n`), [
    'policy.yaml:5:3 spec.thresholds.thresholds: expected one of the keys challenge, deny, terminate, got "thresholds"',
  ]);
});

t.test("no message repeats a key in the wrong place", async (t) => {
  const places = [
    "identity: { apiKeys: hunter2 }",
    "identity: { apiKeys: { keys: hunter2 } }",
    "identity: { apiKeys: { keys: [{ name: a, sha256: [hunter2] }] } }",
    "identity: { apiKeys: { keys: [{ name: a, sha256: { hunter2: 1 } }] } }",
    "identity: { issuers: [{ issuer: a, jwks: hunter2 }] }",
    "identity: { issuers: [{ issuer: a, jwks: { inline: 'hunter2 {' } }] }",
    "identity: { apiKeys: { keys: [{ name: a, sha256: 'hunter2 }] } }",
  ];
  for (const place of places) {
    const lines = said(`${HEAD}spec:\n  ${place}\n`);
    t.ok(lines.length > 0, place);
    t.notMatch(lines.join("\n"), /hunter2/, place);
  }
});

t.test("a policy of every field is accepted", async (t) => {
  const text = readFileSync(new URL("full-policy.yaml", import.meta.url), "utf8");
  t.same(said(text), []);
  t.same(said(text.replaceAll("\n", "\r\n")), [], "also with Windows line ends");
  t.same(said(`\u{feff}${text}`), [], "also after a byte order mark");
});

t.test("a policy may be JSON, and may leave out its spec", async (t) => {
  t.same(said('{"apiVersion": "sallyport.dev/v1", "kind": "Policy", "metadata": {"name": "a"}}'), []);
  t.same(
    said('{\n\t"apiVersion": "sallyport.dev/v1",\n\t"kind": "Policy",\n\t"metadata": {"name": "a", "revision": 7}\n}'),
    [],
  );
});

t.test("plain values of facts are taken as they are written", async (t) => {
  const result = parseFacts(
    "facts: [{ subject: a, facts: { attested: true, n: 0, version: 1.10, text: x } }]",
    "facts.yaml",
  );
  t.ok(result.ok);
  if (result.ok) t.same(result.facts[0]?.facts, { attested: "true", n: "0", version: "1.10", text: "x" });
});

t.test("facts that do not fit are refused with their place", async (t) => {
  const result = parseFacts("facts:\n  - facts: { a: [1] }\n", "facts.yaml");
  t.same(result.ok ? [] : result.problems.map(formatProblem), [
    "facts.yaml:2:5 facts[0].subject: expected a text of 1..2048 characters, got nothing",
    "facts.yaml:2:17 facts[0].facts.a: expected a text, got a list of 1",
  ]);
});
