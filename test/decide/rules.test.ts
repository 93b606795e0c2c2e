/** Tests which rule counts: the first that matches, whatever the index makes of it. */

import fc from "fast-check";
import t from "tap";
import { compilePolicy } from "../../src/bundle/compile-document.ts";
import { parsePolicy } from "../../src/bundle/parse.ts";
import { formatProblem } from "../../src/bundle/problem.ts";
import { finishRules, type Matched, peerGroupOf, stageRules } from "../../src/decide/rules.ts";
import type { Policy, Rule } from "../../src/model/policy.ts";
import { asked } from "../support/asked.ts";

function policyOf(spec: unknown): Policy {
  const text = JSON.stringify({ apiVersion: "sallyport.dev/v1", kind: "Policy", metadata: { name: "a" }, spec });
  const parsed = parsePolicy(text, "policy.json");
  if (!parsed.ok) throw new Error(parsed.problems.map(formatProblem).join("\n"));
  const compiled = compilePolicy(parsed.document, new Map(), "r");
  if (!compiled.ok) throw new Error(compiled.problems.map(formatProblem).join("\n"));
  return compiled.policy;
}

const MATCHED: Matched = {
  destination: "orders.prod",
  method: "GET",
  path: "/orders/7",
  template: "/orders/{id}",
  principal: "spiffe://prod/ns/a/sa/web",
  peerGroup: undefined,
};

/** Names of the rule of the first stage and of the one that counts. */
function counts(policy: Policy, score = 0, matched: Partial<Matched> = {}) {
  const given = asked({ method: matched.method ?? MATCHED.method });
  const staged = stageRules(policy, { ...MATCHED, ...matched }, given);
  const scored = { score, readings: new Map<string, number>() };
  const { rule, errors } = finishRules(staged, () => ({ ...given, scored }));
  return { staged: staged.rule?.name, rule: rule?.name, errors };
}

const watch = true;

const matches: readonly { name: string; match: unknown; matched?: Partial<Matched>; want: boolean }[] = [
  { name: "nothing asked for", match: undefined, want: true },
  { name: "the path itself", match: { routes: ["/orders/7"] }, want: true },
  { name: "the path's template", match: { routes: ["/orders/{id}"] }, want: true },
  { name: "another path", match: { routes: ["/orders/8"] }, want: false },
  { name: "a wildcard in the path", match: { routes: ["/o*/7"] }, want: true },
  { name: "a method in small letters", match: { methods: ["post", "get"] }, want: true },
  { name: "a destination in large letters", match: { destinations: ["Orders.PROD"] }, want: true },
  { name: "a principal by pattern", match: { principals: ["spiffe://prod/**/web"] }, want: true },
  { name: "every list must match", match: { principals: ["**"], methods: ["POST"] }, want: false },
  { name: "a peer group that it is in", match: { peerGroups: ["g"] }, matched: { peerGroup: "g" }, want: true },
  { name: "a peer group that it is not in", match: { peerGroups: ["g"] }, matched: { peerGroup: "h" }, want: false },
  { name: "a peer group where there is none", match: { peerGroups: ["g"] }, want: false },
];
for (const { name, match, matched, want } of matches) {
  t.test(`match: ${name} ${want ? "matches" : "does not"}`, async (t) => {
    const policy = policyOf({ peerGroups: [{ name: "g", principals: ["x"] }], rules: [{ name: "r", match, watch }] });
    t.equal(counts(policy, 0, matched).rule, want ? "r" : undefined);
  });
}

t.test("the first rule that matches counts, conditions included", async (t) => {
  const policy = policyOf({
    rules: [
      { name: "writes", when: 'request.method != "GET"', watch },
      { name: "hot", when: "score >= 30", decision: "deny" },
      { name: "reads", match: { methods: ["GET"] }, watch },
      { name: "hotter", when: "score >= 60", watch },
      { name: "rest", watch },
    ],
  });
  t.same(counts(policy, 10), { staged: "reads", rule: "reads", errors: [] });
  t.same(counts(policy, 30), { staged: "reads", rule: "hot", errors: [] }, "one before it that asks for the score");
  t.same(counts(policy, 70), { staged: "reads", rule: "hot", errors: [] }, "never one after it");
  t.same(counts(policy, 70, { method: "PUT" }), { staged: "writes", rule: "writes", errors: [] });
});

const failures: readonly { rule: Record<string, unknown>; want: string }[] = [
  { rule: { decision: "allow" }, want: "rest" },
  { rule: { decision: "allow", onError: "match" }, want: "r" },
  { rule: { decision: "deny" }, want: "r" },
  { rule: { decision: "deny", onError: "no_match" }, want: "rest" },
  { rule: { thresholds: { deny: 30 } }, want: "r" },
];
for (const { rule, want } of failures) {
  t.test(`a condition that cannot be evaluated, in ${JSON.stringify(rule)}, is named and leaves ${want}`, async (t) => {
    const policy = policyOf({
      rules: [
        { name: "r", when: "1 / request.bytes == 1", ...rule },
        { name: "rest", watch },
      ],
    });
    t.same(counts(policy), { staged: want, rule: want, errors: ["r"] });
  });
}

t.test("a principal belongs to the first group that has it", async (t) => {
  const policy = policyOf({
    peerGroups: [
      { name: "canary", principals: ["spiffe://prod/web-canary"] },
      { name: "web", principals: ["spiffe://prod/web*", "spiffe://prod/site"] },
      { name: "all", principals: ["**"] },
    ],
  });
  t.equal(peerGroupOf(policy, "spiffe://prod/web-canary"), "canary");
  t.equal(peerGroupOf(policy, "spiffe://prod/web-1"), "web");
  t.equal(peerGroupOf(policy, "spiffe://prod/site"), "web");
  t.equal(peerGroupOf(policy, "anonymous"), "all");
  t.equal(peerGroupOf(policyOf({}), "anonymous"), undefined);
});

const word = fc.constantFrom("a", "b", "ab", "a/b", "b/a", "x");
const glob = fc.oneof(
  word,
  word.map((text) => `${text}*`),
  word.map((text) => `*${text}`),
  word.map((text) => `${text}/**`),
  fc.constant("**"),
);
const globs = fc.array(glob, { maxLength: 3 });

/** As one would write it down: every rule, in order. */
function naive(rules: readonly Rule[], matched: Matched): string | undefined {
  return rules.find(({ match }) => {
    const any = (patterns: readonly { test(text: string): boolean }[], ...texts: readonly string[]) =>
      patterns.length === 0 || patterns.some((pattern) => texts.some((text) => pattern.test(text)));
    return (
      any(match.destinations, matched.destination) &&
      any(match.routes, matched.path, matched.template) &&
      any(match.principals, matched.principal) &&
      (match.methods.length === 0 || match.methods.includes(matched.method)) &&
      (match.peerGroups.length === 0 || match.peerGroups.includes(matched.peerGroup ?? ""))
    );
  })?.name;
}

t.test("the index finds what looking at every rule in order finds", async (t) => {
  const match = fc.record({
    destinations: globs,
    routes: globs,
    principals: globs,
    methods: fc.subarray(["GET", "POST"]),
    peerGroups: fc.subarray(["g", "h"]),
  });
  const request = fc.record({
    destination: word,
    path: word,
    template: word,
    principal: word,
    method: fc.constantFrom("GET", "POST"),
    peerGroup: fc.constantFrom("g", "h", undefined),
  });
  const peerGroups = [
    { name: "g", principals: ["x"] },
    { name: "h", principals: ["x"] },
  ];
  fc.assert(
    fc.property(
      fc.array(match, { maxLength: 12 }),
      fc.array(request, { minLength: 1, maxLength: 6 }),
      (parts, requests) => {
        const policy = policyOf({
          peerGroups,
          rules: parts.map((part, index) => ({ name: `r${index}`, match: part, watch })),
        });
        return requests.every((matched) => counts(policy, 0, matched).rule === naive(policy.rules, matched));
      },
    ),
    { numRuns: 300, interruptAfterTimeLimit: 10_000 },
  );
  t.pass();
});

t.test("of ten thousand rules only those that can match are looked at", async (t) => {
  let tested = 0;
  const { rules, ...rest } = policyOf({
    rules: Array.from({ length: 10_000 }, (_, index) => ({
      name: `r${index}`,
      match: { principals: [`spiffe://prod/ns/n${index}/**`], routes: ["/orders/*"] },
      when: `request.method == "GET" && time.hour < ${(index % 23) + 1}`,
      decision: "deny",
    })),
  });
  const counting = rules.map((rule) => ({
    ...rule,
    match: {
      ...rule.match,
      principals: rule.match.principals.map(({ text, test }, index) => ({
        text,
        test: (given: string) => {
          tested++;
          return test.call(rule.match.principals[index], given);
        },
      })),
    },
  }));
  const policy = { ...rest, rules: counting };
  t.equal(counts(policy, 0, { principal: "spiffe://prod/ns/n9999/sa/x" }).rule, "r9999");
  t.ok(tested <= 20, `${tested} globs were tried`);
  const before = tested;
  t.equal(counts(policy, 0, { principal: "spiffe://prod/ns/n9999/sa/x" }).rule, "r9999");
  t.equal(tested, before, "and the second time none");
});
