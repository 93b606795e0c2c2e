/** `sallyport explain`: why one decision was taken. */

import { create, type MessageInitShape, toJson } from "@bufbuild/protobuf";
import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import { parseCases } from "../bundle/parse-cases.ts";
import { runCase } from "../check/cases.ts";
import { type ReadRequest, readRequest } from "../check/logged.ts";
import { type Decision, DecisionSchema } from "../gen/sallyport/local/v1/local_pb.ts";
import { OperatingError } from "../model/errors.ts";
import { caseText, PAST_MAX } from "./case-text.ts";
import { type Command, choice, EXIT_GOOD, type Invocation, type Terminal } from "./command.ts";
import { decisionText } from "./decision-text.ts";
import { API_FLAGS, calling, localClient } from "./local-client.ts";
import { POLICY_FLAGS, policyAt } from "./policy-at.ts";
import { linesOf } from "./requests.ts";

/** Past decisions that a sidecar is asked for. */
const RECENT_MAX = 1_000;
const RECENT_TIMEOUT_MS = 5_000;

export const explainCommand: Command = {
  name: "explain",
  arguments: "DECISION_ID",
  positionals: [1, 1],
  summary:
    "Show one decision with its thresholds and all its reasons: a recent one of a running sidecar, or one from a decision log.",
  flags: [
    { name: "log", value: "FILE", summary: "Look in this decision log (plain or .gz) instead of asking a sidecar." },
    {
      name: "as",
      value: "text|case",
      summary: "`case` prints a policy case for `sallyport test`: the request, and what is held of its caller's past.",
    },
    {
      name: "policy",
      value: "POLICY",
      summary: "With `--as case`: try the case under this policy, and say in it where it comes out otherwise.",
    },
    ...POLICY_FLAGS,
    ...API_FLAGS,
  ],
  run: async (invocation, terminal) => {
    const decisionId = invocation.positionals[0] as string;
    const { log, as = "text" } = invocation.values;
    const asCase = choice("explain", as, "as", ["text", "case"]) === "case";
    const found =
      log === undefined ? await fromSidecar(decisionId, asCase, invocation, terminal) : await fromLog(log, decisionId);
    if (asCase) terminal.out((await caseOf(found, invocation, terminal)).trimEnd());
    else if (invocation.json) terminal.out(found.json);
    else terminal.out(decisionText(found.decision));
    return EXIT_GOOD;
  },
};

interface Found {
  readonly decision: Decision;
  readonly json: string;
  readonly request: ReadRequest;
  /** What came before it of the same caller at the same destination, in order of time. */
  readonly past: readonly ReadRequest[];
}

async function fromSidecar(
  decisionId: string,
  withPast: boolean,
  invocation: Invocation,
  terminal: Terminal,
): Promise<Found> {
  const client = localClient(invocation, terminal);
  const { decision } = await calling((options) => client.getDecision({ decisionId }, options));
  if (decision === undefined) throw new OperatingError("ERR_NOT_FOUND", "no such decision");
  const request = requestOf(decision);
  const past: ReadRequest[] = [];
  const ended = new AbortController();
  try {
    const options = { signal: ended.signal, timeoutMs: RECENT_TIMEOUT_MS };
    const recent = withPast ? client.watchDecisions({ recent: RECENT_MAX }, options) : [];
    for await (const { decision: one } of recent) {
      if (one === undefined) continue;
      if (one.decisionId === decisionId) break;
      const before = requestOf(one);
      if (before.request.facts.time > request.request.facts.time) break;
      keepPast(past, before, request);
    }
  } catch {
    // Goes on with the past that came: a decision that is no longer among the latest has a history of none.
  } finally {
    ended.abort();
  }
  const json = JSON.stringify(toJson(DecisionSchema, decision, { useProtoFieldName: true, alwaysEmitImplicit: true }));
  return { decision, json, request, past };
}

async function fromLog(file: string, decisionId: string): Promise<Found> {
  const { entry, at } = await entryAt(file, decisionId);
  const request = read(entry, at, file);
  const past: ReadRequest[] = [];
  const { credential = "" } = request.logged ?? {};
  let lineNumber = 0;
  for await (const line of linesOf(file)) {
    lineNumber++;
    if (lineNumber === at) break;
    if (!line.includes(request.principal) && !line.includes(credential)) continue;
    try {
      keepPast(past, readRequest(line, lineNumber), request);
    } catch (error) {
      if (!(error instanceof OperatingError)) throw error; // the past is told without a line that is torn
    }
  }
  return { decision: decisionOf(entry), json: entry, request, past };
}

/** @throws {OperatingError} ERR_DATA_INVALID when the line lacks what a decision log's has */
function read(line: string, lineNumber: number, file: string): ReadRequest {
  try {
    return readRequest(line, lineNumber);
  } catch (error) {
    if (!(error instanceof OperatingError)) throw error;
    throw new OperatingError("ERR_DATA_INVALID", `${file}: no whole line of a decision log: ${error.message}`, {
      cause: error,
    });
  }
}

/** The line itself and its number; lines that are torn or not yet whole are passed over. */
async function entryAt(file: string, decisionId: string): Promise<{ readonly entry: string; readonly at: number }> {
  let at = 0;
  for await (const line of linesOf(file)) {
    at++;
    if (!line.includes(decisionId)) continue;
    try {
      if ((JSON.parse(line) as { decision_id?: unknown }).decision_id === decisionId) return { entry: line, at };
    } catch {
      // Passed over: the log may be written to this moment.
    }
  }
  throw new OperatingError("ERR_NOT_FOUND", `no decision ${decisionId} in ${file}`);
}

function keepPast(past: ReadRequest[], one: ReadRequest, of: ReadRequest): void {
  if (one.principal !== of.principal || one.request.host !== of.request.host) return;
  past.push(one);
  if (past.length > PAST_MAX) past.shift();
}

async function caseOf({ decision, request, past }: Found, invocation: Invocation, terminal: Terminal): Promise<string> {
  const { policy, name } = await triedUnder(invocation, terminal);
  const decided = {
    decisionId: decision.decisionId,
    timeMs: request.request.facts.time,
    policy: `${decision.policyName} ${decision.policyRevision}`.trim(),
    score: decision.score,
    decision: decision.decision,
    enforced: decision.enforced,
    mode: decision.mode,
    rule: decision.rule,
    because: decision.reasons.filter(({ points }) => points > 0).map(({ signal }) => signal),
  };
  const held = `Its history is the ${past.length} latest requests of the caller that are on record: paths are templates, outcomes unknown.`;
  const text = caseText(request, decided, past, held);
  const parsed = parseCases(text, "case");
  // A case that is written here and cannot be read is a bug.
  if (!parsed.ok || parsed.cases[0] === undefined) throw new RangeError("a written case cannot be read back");
  const { passed, steps } = runCase(parsed.cases[0], policy);
  if (passed) return text;
  const verdict = steps[0]?.verdict;
  const missed = (steps[0]?.failures ?? []).map(({ part, wanted, got }) => `${part}: wanted ${wanted}, got ${got}`);
  const isSame = [decision.policyRevision, `${decision.policyName}:${decision.policyRevision}`].includes(
    policy.revision,
  );
  const other = `It was decided under ${decided.policy}: name that policy with --policy.`;
  const note = [
    ...(isSame || decided.policy === "" ? [] : [other]),
    held,
    `From that alone ${name} decides ${verdict?.decision.kind} with score ${verdict?.score}: give it more history, or want less.`,
    ...missed.map((one) => `  ${one}`),
  ];
  return caseText(request, decided, past, note.join("\n"));
}

async function triedUnder(invocation: Invocation, terminal: Terminal) {
  const { policy: path } = invocation.values;
  const policy = await policyAt(path, invocation, terminal);
  return { policy, name: path === undefined ? "the shipped policy" : `policy ${policy.name} ${policy.revision}` };
}

interface LogLine {
  readonly decision_id: string;
  readonly timestamp: string;
  readonly input: Readonly<Record<string, string | undefined>>;
  readonly result: { readonly risk: Readonly<Record<string, unknown>> };
  readonly shadow?: { revision?: string; decision?: string; score?: number; rule?: string };
  readonly bundles?: Readonly<
    Record<string, { readonly name?: string; readonly revision?: string; freshness?: string }>
  >;
  readonly metrics?: { readonly timer_check_ns?: number };
}

/** The same facts in the local API's form; `readRequest` has found the line to be one of a decision log. */
function decisionOf(text: string): Decision {
  const line = JSON.parse(text) as LogLine;
  const { input, shadow } = line;
  // One policy decides: a bundle's stands under its own name.
  const [policy] = Object.values(line.bundles ?? {});
  const risk = line.result.risk as MessageInitShape<typeof DecisionSchema> & {
    rule_thresholds?: string[];
    condition_errors?: string[];
  };
  return create(DecisionSchema, {
    decisionId: line.decision_id,
    time: timestampFromMs(Date.parse(line.timestamp)),
    decision: risk.decision ?? "",
    enforced: risk.enforced ?? "",
    score: risk.score ?? 0,
    reasons: (risk.reasons ?? []).map((reason) => ({ ...reason })),
    mode: risk.mode ?? "",
    rule: risk.rule ?? "",
    because: risk.because ?? "",
    answered: risk.answered ?? false,
    ...(risk.thresholds === undefined ? {} : { thresholds: { ...risk.thresholds } }),
    ruleThresholds: risk.rule_thresholds ?? [],
    conditionErrors: risk.condition_errors ?? [],
    peerGroup: input.peer_group ?? "",
    policyFreshness: policy?.freshness ?? "",
    policyName: policy?.name ?? "",
    policyRevision: policy?.revision ?? "",
    principal: input.principal ?? "",
    credential: input.credential ?? "",
    protocol: input.protocol ?? "",
    method: input.method ?? "",
    destination: input.destination ?? "",
    route: input.route ?? "",
    sourceAddress: input.source_address ?? "",
    userAgent: input.user_agent ?? "",
    ja4: input.ja4 ?? "",
    latencyUs: Math.round((line.metrics?.timer_check_ns ?? 0) / 1_000),
    ...(shadow === undefined
      ? {}
      : {
          shadow: {
            policyRevision: shadow.revision ?? "",
            decision: shadow.decision ?? "",
            score: shadow.score ?? 0,
            rule: shadow.rule ?? "",
          },
        }),
  });
}

/** A decision as a decision log would have it, read as a request. */
function requestOf(decision: Decision): ReadRequest {
  const { decision: kind, enforced, score, mode, rule, answered, reasons } = decision;
  const line = {
    decision_id: decision.decisionId,
    timestamp: new Date(decision.time === undefined ? 0 : timestampMs(decision.time)).toISOString(),
    input: {
      principal: decision.principal,
      credential: decision.credential,
      protocol: decision.protocol,
      method: decision.method,
      destination: decision.destination,
      route: decision.route,
      ...(decision.sourceAddress === "" ? {} : { source_address: decision.sourceAddress }),
      ...(decision.userAgent === "" ? {} : { user_agent: decision.userAgent }),
      ...(decision.ja4 === "" ? {} : { ja4: decision.ja4 }),
    },
    result: { risk: { score, decision: kind, enforced, mode, rule, answered, reasons } },
  };
  return readRequest(
    JSON.stringify(line, (key, value) => (key === "$typeName" ? undefined : value)),
    1,
  );
}
