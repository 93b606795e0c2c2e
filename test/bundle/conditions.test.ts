/** Tests what conditions mean, what is refused with which place, and that nothing about them is without bounds. */

import fc from "fast-check";
import t from "tap";
import { FUNCTIONS } from "../../scripts/docs.ts";
import { FUNCTION_NAMES } from "../../src/bundle/condition-check.ts";
import { VARIABLES } from "../../src/bundle/condition-facts.ts";
import { statesOf } from "../../src/bundle/condition-patterns.ts";
import { CONDITION_COST_MAX, checkCondition, compileCondition } from "../../src/bundle/conditions.ts";
import type { Asked } from "../../src/model/policy.ts";
import { asked } from "../support/asked.ts";
import { NOON } from "../support/requests.ts";

/** What is said of a condition. */
function said(text: string): readonly string[] {
  const check = checkCondition(text);
  if (check.ok) return [];
  return check.faults.map(({ offset, expected, got, suggestion }) => {
    return `${offset} expected ${expected}, got ${got}${suggestion === undefined ? "" : `; ${suggestion}?`}`;
  });
}

function evaluate(text: string, given: Asked): boolean | undefined {
  const faults = said(text);
  if (faults.length > 0) throw new Error(`${text}: ${faults.join(" | ")}`);
  return compileCondition(text, false).evaluate(given);
}

const posture = { facts: { node: "n1", started_at: "2026-03-02T11:59:30Z" }, source: "scanner", reportedAtMs: NOON };
const given = asked(
  { method: "DELETE", path: "/orders/7", address: "10.1.0.5", token: { acr: "gold" } },
  {
    route: "/orders/{id}",
    peerGroup: "workers",
    posture,
    place: () => ({ asn: 64_500, country: "CH" }),
    scored: { score: 21.5, readings: new Map([["origin.address", 7.5]]) },
  },
);

const meanings: readonly { when: string; want: boolean }[] = [
  { when: 'request.method == "DELETE" && request.path == "/orders/7" && request.route == "/orders/{id}"', want: true },
  { when: 'request.destination == "orders.shop.example" && request.protocol == "http"', want: true },
  { when: "request.bytes == 0 && !has(request.bytes)", want: true },
  { when: 'source.address == "10.1.0.5" && source.port == 40000', want: true },
  { when: 'source.asn == 64500 && source.country in ["CH", "LI"]', want: true },
  { when: 'principal.name == "spiffe://td/billing" && principal.kind == "spiffe"', want: true },
  { when: 'principal.peer_group == "workers" && principal.trust_domain == "td"', want: true },
  { when: 'credential.kind == "token" && credential.age_seconds == 600', want: true },
  { when: 'credential.expires_in_seconds == 600 && credential.issuer == "https://issuer"', want: true },
  { when: 'credential.acr == "gold"', want: true },
  { when: 'has(tls.ja4) && tls.ja4.startsWith("t13d") && !has(tls.ja3) && tls.ja3 == ""', want: true },
  { when: 'user_agent.matches("^billing/[0-9.]+ ")', want: true },
  { when: 'posture.node == "n1" && posture["node"] == "n1" && has(posture.node)', want: true },
  { when: "pod.age_seconds == 30 && has(pod.age_seconds)", want: true },
  { when: 'posture.image == "" && !has(posture.image) && !("image" in posture)', want: true },
  { when: 'posture.exists(fact, posture[fact] == "n1") && size(posture) == 2', want: true },
  { when: "time.hour == 12 && time.minute == 0 && time.weekday == 1", want: true },
  { when: "score > 20 && score < 21.6 && score + 1.0 > 22.0", want: true },
  { when: 'readings["origin.address"] == 7.5 && readings["usage.rate"] == 0', want: true },
  { when: 'inRange(source.address, "10.1.0.0/16") && !inRange(source.address, "10.2.0.0/16")', want: true },
  { when: 'inRange("2001:db8::1", "2001:db8::/32") && !inRange("2001:db9::1", "2001:db8::/32")', want: true },
  { when: 'inRange(source.address, "2001:db8::/32") || inRange("nonsense", "0.0.0.0/0")', want: false },
  { when: 'inRange(source.address, "0.0.0.0/0") && inRange("2001:db8::1", "::/0")', want: true },
  { when: 'glob(request.path, "/orders/*") && !glob(request.path, "/*")', want: true },
  { when: '{"GET": 1, "DELETE": 2}[request.method] == 2', want: true },
  { when: "1 / 0 == 1 || true", want: true },
];
for (const { when, want } of meanings) {
  t.test(`\`${when}\` is ${want}`, async (t) => {
    t.equal(evaluate(when, given), want);
  });
}

const refusals: readonly { when: string; says: string }[] = [
  { when: 'requst.method == "a"', says: '0 expected a known variable, got "requst"; request?' },
  { when: 'request.methd == "a"', says: '8 expected a part of request, got "methd"; method?' },
  { when: "has(tls.jaa4)", says: '8 expected a part of tls, got "jaa4"; ja4?' },
  { when: 'request.method = "a"', says: '15 expected an operator, got "="; ==?' },
  { when: 'user_agent == "a" and true', says: '18 expected an operator, got "and"; &&?' },
  { when: "not true", says: '0 expected a value, got "not"; !?' },
  { when: "request.method == 5", says: "18 expected a text to compare with, got a whole number" },
  { when: 'score > "x"', says: "8 expected a number to compare with, got a text" },
  {
    when: "score + 1 > 20.0",
    says: "8 expected a number with decimals, got a whole number; double(…), or a literal such as 20.0?",
  },
  { when: "request.method", says: "0 expected a condition that is true or false, got a text" },
  { when: "!request.bytes", says: "1 expected true or false, got a whole number" },
  { when: "true ? 1 : user_agent", says: "11 expected a whole number, got a text" },
  { when: 'user_agent.startWith("a")', says: '11 expected a known method, got "startWith"; startsWith?' },
  { when: 'startsWith(user_agent, "a")', says: "0 expected something.startsWith(…), got startsWith(…)" },
  { when: 'inRange(source.address, "10.0.0/8")', says: '24 expected an address or a CIDR range, got "10.0.0/8"' },
  {
    when: "inRange(source.address, user_agent)",
    says: "24 expected an address or a CIDR range in quotes, got something else",
  },
  {
    when: 'readings["origin.adress"] > 3',
    says: '9 expected the name of a signal, got "origin.adress"; origin.address?',
  },
  {
    when: "readings.origin.address > 3",
    says: '9 expected the whole name of a signal in brackets and quotes, such as ["origin.address"], got "origin"',
  },
  { when: '["a"].exists(score, true)', says: '5 expected another name for the entry, got "score"' },
  { when: '["a"].exists(x, x == 1)', says: "21 expected a text to compare with, got a whole number" },
  { when: "request == source", says: "0 expected a part of request, such as request.method, got request" },
  { when: "1u == 1u", says: "0 expected a text, a number, true or false, got an unsigned number" },
  {
    when: "dyn(1) == 1",
    says: '0 expected one of the functions inRange, glob, size, int, double, string, has, got "dyn"',
  },
  { when: "(1", says: '0 expected a ")" that closes it, got the end' },
  { when: "(1]", says: '2 expected ")", got "]"' },
  { when: "1 +", says: "3 expected a value, got the end" },
  { when: 'user_agent == "abc', says: "14 expected a text with a closing quote, got none" },
  { when: "", says: "0 expected a value, got the end" },
  {
    when: "1 / 0 == 1",
    says: "0 expected a condition that can be evaluated, got one that always fails: int divide by zero",
  },
  {
    when: "9223372036854775807 + 1 > 0",
    says: "0 expected a condition that can be evaluated, got one that always fails: int overflow during _+_",
  },
];
for (const { when, says } of refusals) {
  t.test(`\`${when}\` is refused at its place`, async (t) => {
    t.same(said(when), [says]);
  });
}

t.test("a condition that is always true, or never, is what somebody wants", async (t) => {
  for (const when of ["true", "1 > 2", '"a" in ["a"]']) t.same(said(when), []);
});

t.test("every part of a conjunction tells its own fault", async (t) => {
  t.same(said('a == 1 && time.hour == "x" || user_agent == 2').length, 3);
});

t.test("what takes too long is refused before it is ever evaluated", async (t) => {
  const nested = "posture.exists(a, posture.exists(b, posture.exists(c, a == b && b == c)))";
  t.match(said(nested)[0], /^0 expected a condition of at most 10000 operations, got one of up to \d{8}$/);
  const growing = `size(${"request.path + ".repeat(200)}"").string() == ""`;
  t.ok(said(growing).length > 0);
  t.match(
    said('request.path.split("/").exists(a, request.path.split(a).exists(b, b == a))')[0],
    /at most 10000 operations/,
  );
  t.match(said(`user_agent.matches("${"a".repeat(257)}")`)[0], /a pattern of at most 256 characters, got 257/);
  t.match(said('user_agent.matches("((a{9}){9}){9}")')[0], /a pattern of at most 500 parts/);
  t.match(said('request.path.matches("(a?){100}a{100}")')[0], /at most 10000 operations/);
  t.match(said("user_agent.matches(request.path)")[0], /a pattern in quotes/);
  t.match(said('user_agent.matches("(a")')[0], /an RE2 pattern .*, got "missing closing/);
  t.match(said(`${"(".repeat(33)}true${")".repeat(33)}`)[0], /at most 32 brackets/);
  t.match(said(`${"!".repeat(4_000)}true`), []);
});

t.test("a pattern's parts are counted with their repetitions", async (t) => {
  t.equal(statesOf("abc"), 3);
  t.ok(statesOf("(a{100}){100}") >= 10_000);
  t.ok(statesOf("[a-z]{1,1000}") >= 1_000);
  t.equal(statesOf(")"), 0, "and what is no pattern ends the count");
});

t.test("the longest texts are cut, not refused", async (t) => {
  const long = asked({ path: `/${"a".repeat(9_999)}` });
  t.equal(evaluate("size(request.path) == 2048", long), true);
  const many = { ...posture, facts: Object.fromEntries(Array.from({ length: 500 }, (_, n) => [`f${n}`, "x"])) };
  t.equal(evaluate("size(posture) == 128", asked({}, { posture: many })), true);
});

const failing = [
  "1 / (time.hour - 12) == 1",
  "int(user_agent) == 1",
  "[1, 2][time.hour] == 1",
  "user_agent.substring(999) == ''",
  '{"A": 1}[request.method] == 1',
  "9223372036854775807 + time.hour > 0",
];
for (const when of failing) {
  t.test(`\`${when}\` cannot be evaluated, and does not throw`, async (t) => {
    t.equal(evaluate(when, asked({})), undefined);
  });
}

t.test("every variable that is documented can be asked for, and every function called", async (t) => {
  for (const [name, variable] of Object.entries(VARIABLES)) {
    const texts =
      variable.kind === "facts"
        ? Object.keys(variable.fields).map((part) => `has(${name}.${part}) || true`)
        : [variable.kind === "map" ? `size(${name}) >= 0` : name === "score" ? "score >= 0" : `${name} != "x"`];
    for (const text of texts) t.equal(evaluate(text, given), true, text);
  }
  for (const form of Object.keys(FUNCTIONS)) {
    const forms = [form, `${form} == ""`, `${form} == 0`, `${form} == 0.0`, `size(${form}) > 0`];
    t.ok(
      forms.some((text) => checkCondition(text).ok),
      form,
    );
  }
  const called = new Set(
    Object.keys(FUNCTIONS).flatMap((form) => [...form.matchAll(/(\w+)\(/g)].map(([, name]) => name)),
  );
  t.same(
    FUNCTION_NAMES.filter((name) => !called.has(name)),
    [],
  );
});

/** Texts of conditions, well-typed by construction; none of their operations can fail. */
const { bool } = fc.letrec<{ bool: string; number: string; decimal: string; text: string; list: string }>((tie) => ({
  text: fc.oneof(
    { maxDepth: 3 },
    fc.constantFrom(
      '"a"',
      "'GET'",
      "request.method",
      "request.path",
      "tls.ja4",
      "user_agent",
      "posture.node",
      'posture["x y"]',
    ),
    fc.tuple(tie("text"), tie("text")).map(([a, b]) => `(${a} + ${b})`),
    tie("text").map((a) => `${a}.lowerAscii()`),
    fc.tuple(tie("bool"), tie("text"), tie("text")).map(([c, a, b]) => `(${c} ? ${a} : ${b})`),
  ),
  number: fc.oneof(
    { maxDepth: 3 },
    fc.constantFrom("1", "20", "time.hour", "source.port", "request.bytes"),
    tie("text").map((a) => `size(${a})`),
    fc.tuple(tie("number"), tie("number")).map(([a, b]) => `(${a} - ${b})`),
  ),
  decimal: fc.oneof(
    { maxDepth: 3 },
    fc.constantFrom("1.5", "score", 'readings["usage.rate"]'),
    fc.tuple(tie("decimal"), tie("decimal")).map(([a, b]) => `(${a} * ${b})`),
    tie("number").map((a) => `double(${a})`),
  ),
  list: fc.oneof(
    { maxDepth: 3 },
    fc.tuple(tie("text"), tie("text")).map(([a, b]) => `[${a}, ${b}]`),
    tie("list").map((a) => `${a}.filter(x, x != "")`),
    tie("list").map((a) => `${a}.map(y, y + "b")`),
  ),
  bool: fc.oneof(
    { maxDepth: 4 },
    fc.constantFrom("true", "has(tls.ja3)", 'inRange(source.address, "10.0.0.0/8")', 'glob(request.path, "/a/**")'),
    fc.tuple(tie("text"), fc.constantFrom("==", "<", ">="), tie("text")).map((parts) => parts.join(" ")),
    fc.tuple(tie("number"), fc.constantFrom("!=", "<=", ">"), tie("decimal")).map((parts) => parts.join(" ")),
    fc.tuple(tie("text"), tie("list")).map(([a, list]) => `${a} in ${list}`),
    fc
      .tuple(tie("list"), fc.constantFrom("all", "exists", "exists_one"), tie("text"))
      .map(([list, fold, a]) => `${list}.${fold}(z, z == ${a})`),
    fc
      .tuple(tie("bool"), fc.constantFrom("&&", "||"), tie("bool"))
      .map(([a, operator, b]) => `(${a} ${operator} ${b})`),
    tie("bool").map((a) => `!(${a})`),
  ),
}));

const anyAsked = fc
  .record({
    method: fc.string({ maxLength: 5 }),
    path: fc.string({ maxLength: 40 }),
    address: fc.constantFrom("10.0.0.1", "2001:db8::1", "x", undefined),
    agent: fc.string(),
    at: fc.integer({ min: 0, max: 4e12 }),
  })
  .chain((options) =>
    fc
      .record({
        posture: fc.option(fc.constant(posture), { nil: undefined }),
        scored: fc.option(
          fc.record({
            score: fc.double({ min: 0, max: 100, noNaN: true }),
            readings: fc.constant(new Map([["usage.rate", 1.5]])),
          }),
          { nil: undefined },
        ),
      })
      .map((more) => asked(options, more)),
  );

t.test("what is well-typed is accepted, and whatever is accepted never meets a type that it cannot take", async (t) => {
  fc.assert(
    fc.property(bool, anyAsked, (text, facts) => {
      const check = checkCondition(text);
      if (!check.ok) {
        // Only for what it may cost, never for its types.
        return check.faults.every(
          ({ expected }) => expected.endsWith(`${CONDITION_COST_MAX} operations`) || expected.includes("brackets"),
        );
      }
      return typeof compileCondition(text, false).evaluate(facts) === "boolean";
    }),
    { numRuns: 300, interruptAfterTimeLimit: 10_000 },
  );
  t.pass();
});

t.test("of texts put together at random, those that are accepted evaluate without a type error", async (t) => {
  const piece = fc.constantFrom(
    "request.method",
    "score",
    "1",
    "2.5",
    '"a"',
    "true",
    "time.hour",
    '["a"]',
    "[1]",
    "posture",
    "posture.a",
    "tls.ja4",
    "size(user_agent)",
    "user_agent",
  );
  const operator = fc.constantFrom("==", "!=", "<", ">=", "+", "-", "*", "&&", "||", "in");
  let accepted = 0;
  fc.assert(
    fc.property(piece, operator, piece, operator, piece, anyAsked, (a, first, b, second, c, facts) => {
      const text = `${a} ${first} ${b} ${second} ${c}`;
      if (!checkCondition(text).ok) return true;
      accepted++;
      return typeof compileCondition(text, false).evaluate(facts) === "boolean";
    }),
    { numRuns: 4_000, interruptAfterTimeLimit: 10_000 },
  );
  t.ok(accepted > 20, String(accepted));
});

t.test("no text whatever makes the check throw", async (t) => {
  const words = fc.constantFrom(
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ".",
    ",",
    "?",
    ":",
    "a",
    "score",
    "1",
    '"',
    "'",
    "&&",
    "in",
    "has",
    "!",
    "-",
    "\n",
    "//",
    "\\",
    "é",
    "\u{1f600}",
  );
  fc.assert(
    fc.property(fc.array(words, { maxLength: 20 }), (parts) => {
      const check = checkCondition(parts.join(" "));
      return check.ok || check.faults.length > 0;
    }),
    { numRuns: 1_000, interruptAfterTimeLimit: 10_000 },
  );
  t.pass();
});
