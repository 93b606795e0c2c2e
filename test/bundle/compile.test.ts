/** Tests that every field of a policy arrives where the line reads it. */

import { readFileSync } from "node:fs";
import t from "tap";
import { compilePolicy } from "../../src/bundle/compile-document.ts";
import { DEFAULT_POLICY_TEXT, defaultPolicy, shippedPolicy } from "../../src/bundle/default-policy.ts";
import type { FileContent } from "../../src/bundle/files.ts";
import { namedFiles } from "../../src/bundle/files.ts";
import { parsePolicy } from "../../src/bundle/parse.ts";
import { preparePolicy } from "../../src/bundle/prepare.ts";
import { formatProblem } from "../../src/bundle/problem.ts";
import type { Policy } from "../../src/model/policy.ts";
import { SIGNALS } from "../../src/signals/catalog.ts";
import { writeMmdb } from "./mmdb.ts";

const FULL = readFileSync(new URL("full-policy.yaml", import.meta.url), "utf8");
const HEAD = "apiVersion: sallyport.dev/v1\nkind: Policy\nmetadata: { name: a }\n";
const KEYS = '{"keys":[{"kty":"EC","crv":"P-256","x":"a","y":"b"}]}';

const FILES: Readonly<Record<string, string | Buffer>> = {
  "keys.json": KEYS,
  "facts.json": '{"facts": [{"subject": "192.0.2.7", "facts": {"node": "n2"}, "reportedAt": "2030-01-31T12:00:00Z"}]}',
  "odd.txt":
    "\u{feff}# address bits\r\n203.0.113.0/24 9 # a comment\r\n\r\n2001:db8:1::/48,2.5\n192.0.2.1\t8 ; another\n192.0.2.2",
  "prints.txt": "t13d_filed\njarm 2\n",
  "asn.mmdb": writeMmdb("Test-ASN", { "11000000": { autonomous_system_number: 64_500 } }),
  "country.mmdb": writeMmdb("Test-Country", { "11000000": { country_code: "CH" } }),
};

function contents(files: Readonly<Record<string, string | Buffer>>): Map<string, FileContent> {
  return new Map(Object.entries(files).map(([name, bytes]) => [name, { ok: true, bytes: Buffer.from(bytes) }]));
}

function compiled(text: string, files: Readonly<Record<string, string | Buffer>> = {}): Policy {
  const parsed = parsePolicy(text, "policy.yaml");
  if (!parsed.ok) throw new Error(parsed.problems.map(formatProblem).join("\n"));
  const result = compilePolicy(parsed.document, contents(files), "from-content");
  if (!result.ok) throw new Error(result.problems.map(formatProblem).join("\n"));
  return result.policy;
}

function refused(text: string, files: Readonly<Record<string, string | Buffer>>): readonly string[] {
  const parsed = parsePolicy(text, "policy.yaml");
  if (!parsed.ok) throw new Error(parsed.problems.map(formatProblem).join("\n"));
  const result = compilePolicy(parsed.document, contents(files), "from-content");
  return result.ok ? [] : result.problems.map(formatProblem);
}

t.test("a policy of every field compiles to what it says", async (t) => {
  const policy = compiled(FULL, FILES);
  t.equal(policy.name, "prod.orders");
  t.equal(policy.revision, "2030-01-31.7");
  t.equal(policy.mode, "observe");
  t.same(policy.thresholds, { challenge: 25, deny: 45.5, terminate: 90 });
  t.equal(policy.autoLockMs, 7_200_000);
  t.same(policy.response, { revealReasons: true, upstreamHeaders: false });
  t.same(policy.challenge, {
    kinds: ["certificate_bound", "step_up"],
    publicOrigins: ["https://orders.example"],
    triesMax: 5,
    ttlMs: 90_000,
    dischargeMs: 86_400_000,
    acrValues: ["urn:example:strong"],
    maxAgeSeconds: 5_400,
  });
});

t.test("rules keep their order, their globs and what they change", async (t) => {
  const [health, payments] = compiled(FULL, FILES).rules;
  t.match(health, { name: "health", mode: undefined, thresholds: undefined, decision: "allow", watch: undefined });
  t.same(health?.match.methods, ["GET", "POST"], "methods in upper case");
  t.ok(health?.match.destinations[0]?.test("orders.prod.svc"), "destinations in lower case");
  t.ok(health?.match.routes[1]?.test("/orders/{id}/items"));
  t.notOk(health?.match.routes[1]?.test("/orders/7/8/items"));
  t.ok(health?.match.principals[0]?.test("spiffe://prod.example/ns/a/sa/prober"));
  t.match(payments, { name: "payments", mode: "enforce", decision: undefined, watch: true });
  t.same(payments?.thresholds, { deny: 40 }, "no other thresholds");
  t.same(payments?.match, { destinations: [], routes: [], methods: [], principals: [], peerGroups: [] });
});

t.test("rules and peer groups arrive with their conditions and what else they change", async (t) => {
  const { rules, peerGroups } = compiled(FULL, FILES);
  const [, , workers, noisy] = rules;
  t.match(workers, {
    match: { peerGroups: ["workers"] },
    when: { text: 'principal.trust_domain == "prod.example" && score < 20', needsScore: true, onError: true },
    challenge: { kinds: ["forward"], triesMax: 9, ttlMs: 90_000, acrValues: ["urn:example:strong"] },
    response: { revealReasons: true, upstreamHeaders: false, bodies: { deny: { grpcMessage: "no", text: undefined } } },
  });
  t.same([...(workers?.response?.headers ?? [])], [["x-support", "{decision_id}"]]);
  t.equal(workers?.signal, undefined);
  t.match(noisy?.when, { needsScore: false, onError: true });
  t.same(noisy?.signal?.("usage.rate"), { mode: "observe", capBits: 8 });
  t.match(noisy?.signal?.("origin.address"), { mode: "observe", capBits: 7.5 }, "the rest is the policy's");
  t.equal(peerGroups[0]?.name, "workers");
  t.ok(peerGroups[0]?.principals[0]?.test("spiffe://prod.example/ns/a/sa/worker-7"));
});

t.test("a signal's own entry wins over its family's, part by part", async (t) => {
  const { signal } = compiled(FULL, FILES);
  t.same(signal("origin.address"), { mode: "observe", capBits: 7.5 }, "the family's mode, its own cap");
  t.same(signal("origin.fingerprint"), { mode: "observe", capBits: 16 }, "the family's mode, the catalogue's cap");
  t.same(signal("usage.rate"), { mode: "off", capBits: 8 });
  t.equal(signal("usage.route"), undefined);
  t.equal(signal("origin"), undefined, "a family is no signal");
  const own = compiled(`${HEAD}spec: { signals: { origin: { mode: "off" }, origin.address: { mode: enforce } } }`);
  t.match(own.signal("origin.address"), { mode: "enforce" });
});

t.test("identity names issuers, hops, keys and delegations", async (t) => {
  const { identity } = compiled(FULL, FILES);
  const [byUrl, byFile] = identity.issuers;
  t.same(byUrl, {
    issuer: "https://issuer.example",
    audiences: ["orders"],
    jwks: { kind: "url", url: "https://issuer.example/jwks.json" },
    algorithms: ["ES256"],
    bindsCertificates: true,
    clockToleranceMs: 90_000,
  });
  t.same(byFile, {
    issuer: "file",
    audiences: [],
    bindsCertificates: false,
    jwks: { kind: "inline", keys: KEYS },
    algorithms: ["RS256", "PS256", "ES256", "ES384", "EdDSA"],
    clockToleranceMs: 30_000,
  });
  t.equal(identity.issuers[2]?.jwks.kind, "inline");
  t.ok(identity.xfccHops[0]?.test("spiffe://prod.example/ns/edge/sa/gateway"));
  t.equal(identity.apiKeyHeader, "x-orders-key");
  t.equal(identity.apiKeys.size, 1);
  t.equal(
    identity.apiKeys.get("2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"),
    "partner-1",
    "hashes in lower case",
  );
  t.ok(identity.trustedSpiffe[0]?.test("spiffe://prod.example/x/y"));
  t.notOk(identity.trustedSpiffe[0]?.test("spiffe://prod.example.evil/x"));
  t.ok(identity.delegations[0]?.caller.test("spiffe://prod.example/ns/edge/sa/gateway"));
  t.ok(identity.delegations[0]?.subject.test("user-7"));
  t.same(identity.singleUseIssuers, ["https://issuer.example"]);
  t.equal(compiled(`${HEAD}spec: { identity: { apiKeys: {} } }`).identity.apiKeyHeader, "x-api-key");
});

t.test("registered keys and what bound tokens must bring arrive", async (t) => {
  const { registeredKeys, requireBoundProof } = compiled(FULL, FILES).identity;
  t.equal(requireBoundProof, "deny");
  t.same(
    registeredKeys.map(({ jwks }) => (JSON.parse(jwks) as { keys: { kty: string }[] }).keys[0]?.kty),
    ["EC", "OKP"],
  );
  t.ok(registeredKeys[0]?.principals[0]?.test("spiffe://prod.example/ns/billing/sa/worker"));
  t.notOk(registeredKeys[0]?.principals[0]?.test("spiffe://prod.example/ns/web/sa/worker"));
});

t.test("posture rules and facts arrive, and facts of files replace those of the policy", async (t) => {
  const { posture, postureFacts } = compiled(FULL, FILES);
  t.match(posture, { maxAgeMs: 600_000, missingBits: 3, staleBits: 2.5 });
  t.ok(posture.required[0]?.test("spiffe://prod.example/ns/pay/sa/ledger"));
  t.same(posture.forbid, [
    { name: "unattested", fact: "attested", operator: "not_in", values: ["true"] },
    { name: "broken", fact: "vulnerabilities_critical", operator: "in", values: ["9", "10"] },
  ]);
  t.same(postureFacts.get("spiffe://prod.example/ns/pay/sa/ledger"), {
    facts: { attested: "true", version: "1.10" },
    source: "scanner",
    reportedAtMs: 1_896_091_200_000,
  });
  t.same(postureFacts.get("192.0.2.7"), {
    facts: { node: "n2" },
    source: "facts.json",
    reportedAtMs: 1_896_091_200_000,
  });
  const inline = compiled(`${HEAD}spec: { posture: { facts: [{ subject: a, facts: { n: 1 } }] } }`);
  t.same(inline.postureFacts.get("a"), { facts: { n: "1" }, source: "policy", reportedAtMs: 8_640_000_000_000_000 });
  t.equal(inline.postureFacts.get("a")?.facts.constructor, undefined, "names of Object's own are no facts");
});

t.test("lists hold what the policy and its files name", async (t) => {
  const { addresses, fingerprints } = compiled(FULL, FILES);
  t.equal(addresses.size, 7);
  t.same(addresses.lookup("198.51.100.1"), { list: "bad", action: "block", bits: 5, reason: "known bad" });
  t.same(addresses.lookup("198.51.100.7"), { list: "odd", action: "score", bits: 4, reason: "odd" });
  t.equal(addresses.lookup("203.0.113.9")?.bits, 9);
  t.equal(addresses.lookup("2001:db8:1::9")?.bits, 2.5);
  t.equal(addresses.lookup("192.0.2.1")?.bits, 8);
  t.equal(addresses.lookup("192.0.2.2")?.bits, 4, "without bits of its own, those of the list");
  t.equal(addresses.lookup("192.0.2.3"), undefined);
  t.match(fingerprints.get("t13d_tool"), { list: "worse", action: "block" });
  t.match(fingerprints.get("t13d_filed"), { list: "worse", action: "block" });
  t.equal(fingerprints.size, 4);
});

t.test("places come from both databases", async (t) => {
  t.same(compiled(FULL, FILES).geo.place("192.0.2.7"), { asn: 64_500, country: "CH" });
});

t.test("locks have the parts that were given, and no others", async (t) => {
  t.same(compiled(FULL, FILES).locks, [
    {
      id: "l1",
      scope: { principal: "spiffe://prod.example/ns/old/sa/x", certificate: "00ab", destination: "orders.prod.svc" },
      reason: "leaving",
      setBy: "policy",
      setAtMs: 0,
      expiresAtMs: 1_896_130_800_500,
    },
    {
      id: "l2",
      scope: { address: "203.0.113.0/24" },
      reason: "scan",
      setBy: "policy",
      setAtMs: 0,
      expiresAtMs: undefined,
    },
  ]);
});

t.test("an empty policy has the stated defaults", async (t) => {
  const policy = compiled(HEAD);
  t.equal(policy.revision, "from-content");
  t.equal(policy.mode, "enforce");
  t.same(policy.thresholds, { challenge: 26, deny: 36, terminate: 70 });
  t.same(policy.rules, []);
  for (const { name } of SIGNALS) t.equal(policy.signal(name), undefined);
  t.same(policy.challenge, {
    kinds: ["dpop", "step_up"],
    publicOrigins: [],
    triesMax: 3,
    ttlMs: 300_000,
    dischargeMs: 43_200_000,
    acrValues: [],
    maxAgeSeconds: undefined,
  });
  t.same(policy.posture, { maxAgeMs: 3_600_000, missingBits: 10, staleBits: 6, required: [], forbid: [] });
  t.same(policy.response, { revealReasons: false, upstreamHeaders: true });
  t.equal(policy.autoLockMs, 3_600_000);
  t.equal(policy.identity.apiKeyHeader, undefined);
  t.equal(policy.addresses.lookup("192.0.2.7"), undefined);
});

t.test("the shipped policy that is ready made is what its text says", async (t) => {
  const parsed = parsePolicy(DEFAULT_POLICY_TEXT, "default.yaml");
  if (!parsed.ok) throw new Error("does not parse");
  const read = preparePolicy(parsed.document, new Map(), "none");
  t.strictSame({ ok: true, prepared: shippedPolicy() }, read);
});

t.test("the shipped policy spells out the defaults", async (t) => {
  const shipped = defaultPolicy();
  const empty = compiled(HEAD);
  t.equal(shipped.name, "default");
  t.equal(shipped.revision, "shipped-1");
  for (const part of [
    "mode",
    "thresholds",
    "rules",
    "challenge",
    "posture",
    "response",
    "identity",
    "autoLockMs",
  ] as const) {
    t.same(shipped[part], empty[part], part);
  }
  t.ok(parsePolicy(DEFAULT_POLICY_TEXT, "default.yaml").ok);
});

t.test("the files that a policy names are told, each once", async (t) => {
  const parsed = parsePolicy(FULL, "policy.yaml");
  t.ok(parsed.ok);
  if (!parsed.ok) return;
  const names = namedFiles(parsed.document.policy).map(({ name }) => name);
  t.same(names.sort(), ["asn.mmdb", "country.mmdb", "facts.json", "keys.json", "odd.txt", "prints.txt"]);
});

const LIST = `${HEAD}spec: { lists: { addresses: [{ name: a, file: list.txt }] } }`;
const WANTED = "an address or a CIDR range";
const faults = [
  {
    name: "a file that was not read",
    text: LIST,
    files: {},
    says: [
      "policy.yaml:4:47 spec.lists.addresses[0].file: expected a file that can be read, got a file that was not read",
    ],
  },
  {
    name: "faulty lines of a list",
    text: LIST,
    files: { "list.txt": "10.0.0.0/8\n# fine\n10.0.0.0/40\n10.0.0.1 65\n10.0.0.2 5 6\n10.0.0.3 -1\nx\n" },
    says: [
      `list.txt:3: expected ${WANTED}, got "10.0.0.0/40"`,
      `list.txt:4: expected ${WANTED}, then at most bits from 0 to 64, got "10.0.0.1 65"`,
      `list.txt:5: expected ${WANTED}, then at most bits from 0 to 64, got "10.0.0.2 5 6"`,
      `list.txt:6: expected ${WANTED}, then at most bits from 0 to 64, got "10.0.0.3 -1"`,
      `list.txt:7: expected ${WANTED}, got "x"`,
    ],
  },
  {
    name: "a list that is no text",
    text: LIST,
    files: { "list.txt": Buffer.from([0xff, 0xfe]) },
    says: ["list.txt: expected UTF-8 text, got other bytes"],
  },
  {
    name: "a key set with a private key",
    text: `${HEAD}spec: { identity: { issuers: [{ issuer: i, jwks: { file: keys.json } }] } }`,
    files: { "keys.json": '{"keys":[{"kty":"OKP","crv":"Ed25519","x":"a","d":"hunter2"}]}' },
    says: ["keys.json: expected a JSON Web Key Set of 1..1000 public keys, got a private key in keys[0]"],
  },
  {
    name: "facts that do not fit",
    text: `${HEAD}spec: { posture: { files: [facts.yaml] } }`,
    files: { "facts.yaml": "fatcs: []\n" },
    says: ['facts.yaml:1:1 fatcs: expected a known key, got "fatcs"; did you mean "facts"?'],
  },
  {
    name: "a database that is none",
    text: `${HEAD}spec: { geo: { asn: a.mmdb } }`,
    files: { "a.mmdb": "hello" },
    says: ["a.mmdb: expected an MMDB database with autonomous_system_number, got 5 bytes that are no MMDB database"],
  },
];
for (const { name, text, files, says } of faults) {
  t.test(`${name} is refused with its place`, async (t) => {
    t.same(refused(text, files as Readonly<Record<string, string | Buffer>>), says);
  });
}

t.test("of many faulty lines twenty are shown and the rest is counted", async (t) => {
  const lines = refused(LIST, { "list.txt": "x\n".repeat(25) });
  t.equal(lines.length, 21);
  t.equal(lines[19], `list.txt:20: expected ${WANTED}, got "x"`);
  t.equal(lines[20], "list.txt: expected no other faulty lines, got 5 more");
});
