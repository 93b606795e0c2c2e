/** `sallyport cost`: what thresholds would cost legitimate traffic. */

import { parseDuration } from "../bundle/scalars.ts";
import { CostOfThresholds, type CostReport } from "../check/cost.ts";
import { createReplay } from "../check/replay.ts";
import { type Command, choice, EXIT_GOOD, type Invocation, type Terminal, usage } from "./command.ts";
import { POLICY_FLAGS, policyAt } from "./policy-at.ts";
import { requestsOf } from "./requests.ts";

const THRESHOLDS = "20,26,30,36,40";
const THRESHOLDS_MAX = 20;
/** Callers named at each threshold. */
const PRINCIPALS_SHOWN = 20;

export const costCommand: Command = {
  name: "cost",
  arguments: "",
  positionals: [0, 0],
  summary:
    "Say what thresholds would cost: at each score, the share of recorded requests that reached it, and whose they were, beside what the score promises.",
  flags: [
    {
      name: "requests",
      value: "ROWS.jsonl[.gz]",
      summary:
        "The requests, in order of time: a decision log, whose logged scores count; or rows, which are replayed in observe mode.",
    },
    {
      name: "policy",
      value: "POLICY",
      summary: "Replay under this policy, a decision log too; without it rows are replayed under the shipped one.",
    },
    ...POLICY_FLAGS,
    {
      name: "since",
      value: "DURATION",
      summary: "Count only what came this long before the last request, such as 7d; what is older still teaches.",
    },
    { name: "at", value: "SCORES", summary: `Thresholds to look at, by commas. Default ${THRESHOLDS}.` },
    {
      name: "view",
      value: "callee|fleet",
      summary: "`callee` keeps memory per host, as one sidecar per service does; `fleet` shares it. Default callee.",
    },
  ],
  run: async (invocation, terminal) => {
    const { out } = terminal;
    const { values, json } = invocation;
    const path = values.requests;
    if (path === undefined) throw usage("cost: expected --requests ROWS.jsonl[.gz]");
    const thresholds = thresholdsOf(values.at ?? THRESHOLDS);
    const sinceMs = values.since === undefined ? undefined : parseDuration(values.since);
    if (values.since !== undefined && sinceMs === undefined)
      throw usage(`cost: --since: expected a duration such as 12h or 7d, got ${JSON.stringify(values.since)}`);
    const fromMs = sinceMs === undefined ? Number.NEGATIVE_INFINITY : (await lastMs(path)) - sinceMs;
    const report = await costsOf(path, thresholds, fromMs, invocation, terminal);
    if (json) out(JSON.stringify(report));
    else for (const line of costText(report)) out(line);
    return EXIT_GOOD;
  },
};

async function costsOf(
  path: string,
  thresholds: readonly number[],
  fromMs: number,
  invocation: Invocation,
  terminal: Terminal,
): Promise<CostReport> {
  const { values } = invocation;
  const replay = createReplay({
    policy: await policyAt(values.policy, invocation, terminal),
    answers: "none",
    observe: true,
    view: choice("cost", values.view ?? "callee", "view", ["callee", "fleet"]),
  });
  const costs = new CostOfThresholds(thresholds);
  for await (const { request, principal, logged } of requestsOf(path)) {
    const isLogged = logged !== undefined && values.policy === undefined;
    const { score, rule } = isLogged ? logged : replay.pass(request);
    if (request.facts.time >= fromMs) costs.count({ principal, rule, score });
  }
  return costs.report(PRINCIPALS_SHOWN);
}

async function lastMs(path: string): Promise<number> {
  let last = Number.NEGATIVE_INFINITY;
  for await (const { request } of requestsOf(path)) last = Math.max(last, request.facts.time);
  return last;
}

function thresholdsOf(text: string): readonly number[] {
  const found = text.split(",").map((part) => (/^\s*\d{1,2}(?:\.\d{1,3})?\s*$/.test(part) ? Number(part) : Number.NaN));
  if (found.length > THRESHOLDS_MAX || found.some((value) => !(value > 0 && value < 100))) {
    const wanted = `at most ${THRESHOLDS_MAX} scores between 0 and 100, by commas`;
    throw usage(`cost: --at: expected ${wanted}, got ${JSON.stringify(text.slice(0, 80))}`);
  }
  return [...new Set(found)].sort((a, b) => a - b);
}

function costText({ requests, principals, certain, costs }: CostReport): readonly string[] {
  const lines = [`${requests} requests of ${principals} principals`];
  if (certain > 0)
    lines.push(`${certain} are refused for certain facts, whatever the thresholds, and not counted below`);
  lines.push("", "    at  requests    share  promised  principals");
  for (const cost of costs) {
    lines.push(
      [
        cost.threshold.toString().padStart(6),
        cost.requests.toString().padStart(8),
        percent(cost.share).padStart(7),
        percent(cost.promised).padStart(8),
        cost.principals.toString().padStart(10),
      ].join("  "),
    );
  }
  for (const { threshold, top, principals: affected } of costs) {
    if (top.length === 0) continue;
    lines.push("", `at ${threshold} would be challenged:`);
    for (const { principal, requests: count, share, rules } of top) {
      lines.push(
        `  ${String(count).padStart(6)}  ${percent(share).padStart(7)} of its own  ${principal}  (${rulesText(rules)})`,
      );
    }
    if (top.length < affected) lines.push(`          and ${affected - top.length} more principals`);
  }
  return lines;
}

function rulesText(rules: readonly string[]): string {
  return `${rules.length === 1 ? "rule" : "rules"} ${rules.join(", ")}`;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(share < 0.001 && share > 0 ? 4 : 2)}%`;
}
