import fc from "fast-check";
import t from "tap";
import { parseCases } from "../../src/bundle/parse-cases.ts";
import { formatProblem } from "../../src/bundle/problem.ts";
import { type CaseResult, runCase } from "../../src/check/cases.ts";
import type { PolicyCase } from "../../src/model/cases.ts";
import { POLICY } from "../support/requests.ts";

function read(text: string): readonly PolicyCase[] {
  const parsed = parseCases(text, "c.yaml");
  if (!parsed.ok) throw new Error(parsed.problems.map(formatProblem).join("\n"));
  return parsed.cases;
}

function problems(text: string): readonly string[] {
  const parsed = parseCases(text, "c.yaml");
  return parsed.ok ? [] : parsed.problems.map(formatProblem);
}

function run(text: string): CaseResult {
  return runCase(read(text)[0] as PolicyCase, POLICY);
}

const refused = [
  {
    name: "a misspelt key, with what was meant",
    text: "name: x\ngivn: {principal: a}\nwant: {decision: allow}\n",
    says: 'c.yaml:2:1 givn: expected a known key, got "givn"; did you mean "given"?',
  },
  {
    name: "a misspelt key of a row",
    text: "name: x\ngiven: {principal: a, source_adress: 10.0.0.1}\nwant: {decision: allow}\n",
    says: 'c.yaml:2:23 given.source_adress: expected a known key, got "source_adress"; did you mean "source_address"?',
  },
  {
    name: "a signal that there is not",
    text: "name: x\ngiven: {principal: a}\nwant: {because: [origin.adress]}\n",
    says: 'c.yaml:3:18 want.because[0]: expected the name of a signal, got "origin.adress"; did you mean "origin.address"?',
  },
  {
    name: "an unknown decision",
    text: "name: x\ngiven: {principal: a}\nwant: {decision: block}\n",
    says: 'c.yaml:3:18 want.decision: expected one of allow, challenge, deny, terminate, got "block"',
  },
  {
    name: "a score beyond the scale, in the short form too",
    text: "name: x\ngiven: {principal: a}\nwant: {score: 140}\n",
    says: "c.yaml:3:15 want.score.min: expected 0..100, got 140",
  },
  {
    name: "nobody who calls",
    text: "name: x\ngiven: {path: /}\nwant: {decision: allow}\n",
    says: "c.yaml:2:8 given: expected a principal, here or in usual, got none",
  },
  {
    name: "one request and steps at once",
    text: "name: x\ngiven: {principal: a}\nwant: {decision: allow}\nsteps: [{given: {principal: a}, want: {decision: allow}}]\n",
    says: "c.yaml:4:8 steps: expected either given and want, or steps, got both",
  },
  {
    name: "nothing asked",
    text: "name: x\nhistory: []\n",
    says: "c.yaml:1:1: expected given and want, or steps, got neither",
  },
  {
    name: "nothing wanted",
    text: "name: x\ngiven: {principal: a}\nwant: {}\n",
    says: "c.yaml:3:7 want: expected at least one of decision, score, because, not_because, rule, mode, enforced, got none",
  },
  {
    name: "a history without end",
    text: "name: x\nhistory: [&e {repeat: 100000, row: {principal: a}}, *e, *e]\ngiven: {principal: a}\nwant: {score: 0}\n",
    says: "c.yaml:2:10 history: expected at most 200000 requests in all, got 300000",
  },
  {
    name: "a lock on nothing",
    text: "name: x\nlocks: [{reason: r}]\ngiven: {principal: a}\nwant: {score: 0}\n",
    says: "c.yaml:2:9 locks[0]: expected at least one part of a scope, got none",
  },
];
for (const { name, text, says } of refused) {
  t.test(`refused with its place: ${name}`, async (t) => {
    t.ok(problems(text).includes(says), problems(text).join("\n"));
  });
}

t.test("whatever is in a file, reading it ends in cases or in problems with their places", async () => {
  const word = fc.constantFrom(
    "name: x",
    "given:",
    " {principal: a}",
    "want: [",
    "steps: - ",
    "- history:",
    "&a *a",
    "\n",
    "  ",
    "score: 4",
  );
  fc.assert(
    fc.property(
      fc.oneof(
        fc.array(word, { maxLength: 12 }).map((words) => words.join("")),
        fc.string(),
      ),
      (text) => {
        const parsed = parseCases(text, "c.yaml");
        return parsed.ok || parsed.problems.length > 0;
      },
    ),
    { numRuns: 300 },
  );
});

t.test(
  "what is usual holds for history and request; their own values win, and an empty text takes it away",
  async (t) => {
    const [one] = read(`
usual: {principal: spiffe://td/a, user_agent: a/1, host: h}
cases:
  - name: x
    usual: {user_agent: b/1}
    history: [{repeat: 2, row: {path: /r}}]
    given: {host: other, user_agent: ""}
    want: {decision: allow}
`);
    t.match(one?.history[0]?.row, { principal: "spiffe://td/a", userAgent: "b/1", host: "h", path: "/r" });
    t.match(one?.steps[0]?.given, { principal: "spiffe://td/a", host: "other", userAgent: "" });
  },
);

t.test("a history takes rows of a replay as they are", async (t) => {
  const [one] = read(`
name: x
history:
  - {time: "2026-03-01T10:00:00Z", principal: spiffe://td/a, credential: 17, source_address: 10.0.0.1, path: /r, status: 404}
given: {principal: spiffe://td/a}
want: {decision: allow}
`);
  const row = { timeMs: Date.parse("2026-03-01T10:00:00Z"), credential: "17", sourceAddress: "10.0.0.1", status: 404 };
  t.match(one?.history[0], { repeat: 1, row });
});

t.test("values take turns, and every part of what is wanted is compared", async (t) => {
  const { passed, steps } = run(`
name: x
usual: {principal: spiffe://td/a, source_address: 10.0.0.1, user_agent: a/1}
history: [{repeat: 300, every: 10m, vary: {path: ["/r/{n}", /s]}}]
given: {path: /s}
want: {decision: deny, enforced: deny, mode: observe, rule: closed, score: {min: 50}, because: [lock]}
`);
  t.equal(passed, false);
  t.same(
    steps[0]?.failures.map(({ part, wanted, got }) => `${part}: ${wanted}, ${got}`),
    [
      "decision: deny, allow",
      "enforced: deny, allow",
      "mode: observe, enforce",
      "rule: closed, default",
      "score: at least 50, 0",
      "because: lock, no reasons",
    ],
  );
});

t.test("the same case comes out the same every time, however often it is run", async (t) => {
  const text = `
name: x
usual: {principal: "https://issuer|svc", source_address: 10.0.0.1}
history: [{repeat: 100}]
steps:
  - {given: {source_address: 203.0.113.9}, want: {decision: allow}}
  - {after: 1h, given: {token: {age: 5m}}, want: {decision: allow}}
`;
  t.same(run(text), run(text));
});
