import t from "tap";
import { decide } from "../../src/decide/decide.ts";
import type { Rule } from "../../src/model/policy.ts";
import { toEpochMs } from "../../src/model/units.ts";
import type { Challenge } from "../../src/model/verdict.ts";

const THRESHOLDS = { challenge: 28, deny: 40, terminate: 70 };
const CALM = {
  score: 0,
  certain: undefined,
  tries: 0,
  denials: 0,
  answeredScore: undefined,
  seasoned: true,
  rateOnly: false,
  lacksProof: false,
};
const put = (): Challenge => ({ kind: "step_up", issuedAfter: toEpochMs(0), acrValues: [], maxAgeSeconds: undefined });

const cases = [
  { name: "just under the threshold is allowed", standing: { score: 27.9 }, want: "allow" },
  { name: "at the threshold is challenged", standing: { score: 28 }, want: "challenge" },
  { name: "statistics alone are challenged first, however high", standing: { score: 99 }, want: "challenge" },
  {
    name: "a failed challenge under the deny threshold is challenged again",
    standing: { score: 39.9, tries: 1 },
    want: "challenge",
  },
  { name: "a failed challenge at the deny threshold is denied", standing: { score: 40, tries: 1 }, want: "deny" },
  {
    name: "the first refusal is a denial, even at a terminating score",
    standing: { score: 99, tries: 1 },
    want: "deny",
  },
  { name: "going on after a denial is terminated", standing: { score: 70, tries: 1, denials: 1 }, want: "terminate" },
  { name: "just under it is denied again", standing: { score: 69.9, tries: 1, denials: 1 }, want: "deny" },
  {
    name: "where memory is young, evidence that stays after an answer is no ground for denial",
    standing: { score: 40, answeredScore: 35, seasoned: false },
    want: "allow",
  },
  {
    name: "where memory is young, clearly more evidence than was answered for is challenged again",
    standing: { score: 45, answeredScore: 35, seasoned: false },
    want: "challenge",
  },
  { name: "evidence that stays after an answer is denied", standing: { score: 40, answeredScore: 30 }, want: "deny" },
  {
    name: "whoever answered is never terminated by its score",
    standing: { score: 99, answeredScore: 30, denials: 5 },
    want: "deny",
  },
  { name: "an answered score is not challenged again", standing: { score: 39, answeredScore: 30 }, want: "allow" },
  { name: "too many unanswered challenges are denied at any score", standing: { score: 0, tries: 3 }, want: "deny" },
  { name: "one fewer is not", standing: { score: 0, tries: 2 }, want: "allow" },
  {
    name: "a bound token without its proof is challenged at any score",
    standing: { lacksProof: true },
    want: "challenge",
  },
  {
    name: "also after an answer",
    standing: { lacksProof: true, answeredScore: 30 },
    want: "challenge",
  },
  { name: "and denied once it was challenged in vain", standing: { lacksProof: true, tries: 3 }, want: "deny" },
] as const;
for (const { name, standing, want } of cases) {
  t.test(name, async (t) => {
    t.equal(decide({ ...CALM, ...standing }, THRESHOLDS, undefined, 3, put).kind, want);
  });
}

t.test("only the rate being wrong asks for 429", async (t) => {
  t.match(decide({ ...CALM, score: 50, tries: 1, rateOnly: true }, THRESHOLDS, undefined, 3, put), {
    kind: "deny",
    rate: true,
  });
});

const rule = (decision: Rule["decision"]): Rule => ({
  name: "r",
  match: { destinations: [], routes: [], methods: [], principals: [], peerGroups: [] },
  when: undefined,
  mode: undefined,
  thresholds: undefined,
  decision,
  watch: undefined,
  signal: undefined,
  challenge: undefined,
  response: undefined,
});

t.test("a rule's decision holds whatever the score, but certain facts win", async (t) => {
  const certain = { kind: "deny", because: "reputation.address" } as const;
  t.equal(decide({ ...CALM, score: 99 }, THRESHOLDS, rule("allow"), 3, put).kind, "allow");
  t.equal(decide({ ...CALM, score: 100, certain }, THRESHOLDS, rule("allow"), 3, put).kind, "deny");
  t.match(decide(CALM, THRESHOLDS, rule("deny"), 3, put), { kind: "deny", because: "rule r" });
  t.equal(decide(CALM, THRESHOLDS, rule("challenge"), 3, put).kind, "challenge");
  t.equal(decide({ ...CALM, answeredScore: 0 }, THRESHOLDS, rule("challenge"), 3, put).kind, "allow");
});
