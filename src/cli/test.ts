/** `sallyport test`: policy cases, each with what was ordinary before and what is to be decided. */

import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { parseCases } from "../bundle/parse-cases.ts";
import { fileProblem, formatProblem, type Problem } from "../bundle/problem.ts";
import { TEXT_BYTES_MAX } from "../bundle/tree.ts";
import { type CaseResult, runCase, type StepResult } from "../check/cases.ts";
import type { PolicyCase } from "../model/cases.ts";
import { OperatingError } from "../model/errors.ts";
import type { Policy } from "../model/policy.ts";
import { type Command, EXIT_BAD, EXIT_GOOD, type Invocation, type Terminal, usage } from "./command.ts";
import { POLICY_FLAGS, policyAt } from "./policy-at.ts";

/** Files of one run. */
const FILES_MAX = 10_000;

interface Ran {
  readonly one: PolicyCase;
  readonly result: CaseResult;
  readonly policy: Policy;
  readonly ms: number;
}

export const testCommand: Command = {
  name: "test",
  arguments: "CASES...",
  positionals: [1, FILES_MAX],
  summary:
    "Run policy cases: files of YAML, or folders of them (policies in a folder are left out). Shows of each failure what was wanted and why it came otherwise.",
  flags: [
    {
      name: "policy",
      value: "POLICY",
      summary: "Run all cases with this policy, whichever they name. A case that names none has the shipped one.",
    },
    ...POLICY_FLAGS,
    { name: "only", value: "TEXT", summary: "Run only cases with this text in their name." },
    { name: "junit", value: "FILE", summary: "Write the results to this file as JUnit XML, for CI systems." },
  ],
  run: async (invocation, terminal) => {
    const { values, json } = invocation;
    const all = readCases(invocation.positionals);
    const cases = all.filter(({ name }) => name.includes(values.only ?? ""));
    if (cases.length === 0) {
      const those = all.length === 0 ? "" : ` with ${JSON.stringify(values.only)} in its name`;
      const among = all.length === 0 ? "" : ` among ${all.length}`;
      throw usage(`test: expected cases, found none${those}${among} in ${invocation.positionals.join(", ")}`);
    }
    const ran = await runAll(cases, invocation, terminal);
    const failed = ran.filter(({ result }) => !result.passed);
    if (values.junit !== undefined) writeText(values.junit, junitOf(ran));
    if (json) {
      const summary = { ok: failed.length === 0, cases: ran.length, failed: failed.length };
      terminal.out(JSON.stringify({ ...summary, results: ran.map(resultJson) }));
    } else {
      for (const one of failed) for (const line of failureText(one)) terminal.out(line);
      const said = failed.length === 0 ? "all as wanted" : `${failed.length} not as wanted`;
      terminal.out(`${ran.length} ${ran.length === 1 ? "case" : "cases"}: ${said}`);
    }
    return failed.length === 0 ? EXIT_GOOD : EXIT_BAD;
  },
};

async function runAll(
  cases: readonly PolicyCase[],
  invocation: Invocation,
  terminal: Terminal,
): Promise<readonly Ran[]> {
  const policies = new Map<string, Policy>();
  const ran: Ran[] = [];
  for (const one of cases) {
    const path =
      invocation.values.policy ?? (one.policy === undefined ? undefined : resolve(dirname(one.file), one.policy));
    const policy = policies.get(path ?? "") ?? (await policyAt(path, invocation, terminal));
    policies.set(path ?? "", policy);
    const startedMs = performance.now();
    ran.push({ one, policy, result: runCase(one, policy), ms: performance.now() - startedMs });
  }
  return ran;
}

/** @throws {OperatingError} ERR_CASE_INVALID with every problem of every file */
function readCases(paths: readonly string[]): readonly PolicyCase[] {
  const problems: Problem[] = [];
  const cases: PolicyCase[] = [];
  for (const file of paths.flatMap(filesAt)) {
    const text = readText(file);
    if (typeof text !== "string") problems.push(text);
    // A policy may lie in one folder with its cases; named by itself it is an error.
    else if (paths.includes(file) || !/^kind: *["']?Policy\b/m.test(text)) {
      const parsed = parseCases(text, file);
      if (parsed.ok) cases.push(...parsed.cases);
      else problems.push(...parsed.problems);
    }
  }
  if (problems.length === 0) return cases;
  throw new OperatingError("ERR_CASE_INVALID", `cases refused:\n${problems.map(formatProblem).join("\n")}`);
}

/** The file itself, or all YAML files of the folder and those in it, by name. */
function filesAt(path: string): readonly string[] {
  try {
    if (!statSync(path).isDirectory()) return [path];
    return readdirSync(path, { recursive: true, encoding: "utf8" })
      .filter((name) => /\.ya?ml$/.test(name))
      .sort()
      .slice(0, FILES_MAX)
      .map((name) => join(path, name));
  } catch (cause) {
    throw unreadable(path, cause);
  }
}

function readText(file: string): string | Problem {
  try {
    const { size } = statSync(file);
    if (size > TEXT_BYTES_MAX) return fileProblem(file, `at most ${TEXT_BYTES_MAX} bytes`, String(size));
    return new TextDecoder("utf-8", { fatal: true }).decode(readFileSync(file));
  } catch (cause) {
    if (cause instanceof TypeError) return fileProblem(file, "UTF-8 text", "other bytes"); // fails closed: not guessed at
    throw unreadable(file, cause);
  }
}

function unreadable(path: string, cause: unknown): OperatingError {
  const code = cause instanceof Error && "code" in cause ? String(cause.code) : "an error";
  return new OperatingError("ERR_DATA_UNREADABLE", `${path}: cannot be read: ${code}`, { cause });
}

function writeText(path: string, text: string): void {
  try {
    writeFileSync(path, text);
  } catch (cause) {
    throw new OperatingError("ERR_STATE_UNWRITABLE", `${path}: cannot be written`, { cause });
  }
}

function failureText({ one, result, policy }: Ran): readonly string[] {
  const lines = [`FAILED ${one.name}`, `  ${one.file}:${one.line}, policy ${policy.name} ${policy.revision}`];
  for (const [i, step] of result.steps.entries()) {
    if (step.failures.length === 0) continue;
    if (result.steps.length > 1) lines.push(`  step ${i + 1} of ${result.steps.length}`);
    lines.push(...stepText(step).map((line) => `  ${line}`));
  }
  return [...lines, ""];
}

function stepText({ verdict, failures }: StepResult): readonly string[] {
  const { challenge, deny, terminate } = verdict.thresholds;
  return [
    ...failures.map(({ part, wanted, got }) => `  ${part}: wanted ${wanted}, got ${got}`),
    `  decided: ${verdict.decision.kind}, score ${verdict.score}, mode ${verdict.mode}, rule ${verdict.rule}, thresholds ${challenge}/${deny}/${terminate}`,
    ...verdict.reasons.map(
      ({ signal, points, bits, seen, expected }) =>
        `  ${points.toFixed(1).padStart(6)} points ${bits.toFixed(1).padStart(6)} bits  ${signal}: ${seen}; expected ${expected}`,
    ),
  ];
}

function resultJson({ one, result, policy, ms }: Ran) {
  return {
    name: one.name,
    file: one.file,
    line: one.line,
    policy: `${policy.name} ${policy.revision}`,
    passed: result.passed,
    duration_ms: Math.round(ms * 1_000) / 1_000,
    steps: result.steps.map(({ verdict, failures }) => ({
      decision: verdict.decision.kind,
      enforced: verdict.enforced,
      score: verdict.score,
      mode: verdict.mode,
      rule: verdict.rule,
      thresholds: verdict.thresholds,
      reasons: verdict.reasons,
      failures,
    })),
  };
}

/** The form that CI systems agree on: suites of cases, failures as text. */
function junitOf(ran: readonly Ran[]): string {
  const files = new Map<string, Ran[]>();
  for (const one of ran) files.set(one.one.file, [...(files.get(one.one.file) ?? []), one]);
  const suites = [...files].map(([file, cases]) => {
    const failures = cases.filter(({ result }) => !result.passed).length;
    const tests = cases.map((one) => {
      const head = `    <testcase classname="${xml(file)}" name="${xml(one.one.name)}" file="${xml(file)}" line="${one.one.line}" time="${seconds(one.ms)}"`;
      if (one.result.passed) return `${head}/>`;
      const failed = one.result.steps.flatMap((step) => step.failures);
      const message = failed.map(({ part, wanted, got }) => `${part}: wanted ${wanted}, got ${got}`).join("; ");
      return `${head}>\n      <failure message="${xml(message)}">${xml(failureText(one).join("\n"))}</failure>\n    </testcase>`;
    });
    const time = seconds(cases.reduce((sum, { ms }) => sum + ms, 0));
    return `  <testsuite name="${xml(file)}" tests="${cases.length}" failures="${failures}" time="${time}">\n${tests.join("\n")}\n  </testsuite>`;
  });
  return `<?xml version="1.0" encoding="UTF-8"?>\n<testsuites>\n${suites.join("\n")}\n</testsuites>\n`;
}

function seconds(ms: number): string {
  return (ms / 1_000).toFixed(3);
}

const ENTITIES: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };

/** Text for XML: what XML has no way to write becomes a replacement character. */
function xml(text: string): string {
  return text
    .replaceAll(/[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/gu, "\ufffd")
    .replaceAll(/[&<>"]/g, (mark) => ENTITIES[mark] as string);
}
