/**
 * Usage: tsx snapshots.ts [CALLERS] [FILE]   Cost of snapshots of that many principals: made at once, in steps, and
 * restored. With a FILE, restores that alone, as at a start.
 */

import { readFileSync } from "node:fs";
import { countingBytes, request } from "../support/requests.ts";
import { importBuilt } from "./built.ts";
import { callerOf, DESTINATION, JA4, pathOf } from "./callers.ts";

const [{ createLine }, { defaultPolicy }] = (await importBuilt("check/line", "bundle/default-policy")) as [
  typeof import("../../src/check/line.ts"),
  typeof import("../../src/bundle/default-policy.ts"),
];

/** Two simulated hours of each caller. */
const REQUESTS_EACH = 24;
const INTERVAL_MS = 300_000;
const ROUNDS = 5;

const callers = Number(process.argv[2] ?? 10_000);
const file = process.argv[3];
const emptyLine = () => createLine({ principalsMax: callers, sessionsMax: 2 * callers, random: countingBytes() });

if (file === undefined) measure();
else report({ restoreMs: restoreMs(readFileSync(file)), rssMaxMb: process.resourceUsage().maxRSS / 1_000 });

function measure(): void {
  const line = taught();
  const { time } = request({ at: Date.now() });
  const wholeMs: number[] = [];
  /** Of each step the quickest round: what the machine did meanwhile is not counted. */
  const stepMs: number[] = [];
  const stepsMs: number[] = [];
  let snapshot: Uint8Array = new Uint8Array();
  for (let round = 0; round < ROUNDS; round++) {
    wholeMs.push(
      msOf(() => {
        snapshot = line.snapshot(time);
      }),
    );
    const steps = line.snapshotSteps(time);
    let total = 0;
    for (let i = 0, done = false; !done; i++) {
      const ms = msOf(() => {
        done = steps.next().done === true;
      });
      total += ms;
      stepMs[i] = Math.min(stepMs[i] ?? Number.POSITIVE_INFINITY, ms);
    }
    stepsMs.push(total);
  }
  report({
    principals: line.stats().principals,
    bytes: snapshot.length,
    atOnceMs: Math.min(...wholeMs),
    inStepsMs: Math.min(...stepsMs),
    steps: stepMs.length,
    longestStepMs: Math.max(...stepMs),
    restoreMs: restoreMs(snapshot),
  });
}

function taught() {
  const line = emptyLine();
  const policy = defaultPolicy();
  const startMs = Date.now() - REQUESTS_EACH * INTERVAL_MS;
  for (let i = 0; i < REQUESTS_EACH * callers; i++) {
    const who = i % callers;
    const turn = Math.floor(i / callers);
    const at = startMs + turn * INTERVAL_MS + (who * INTERVAL_MS) / callers;
    const { spiffeId: principal, address, agent } = callerOf(who);
    const [path, host] = [pathOf(turn), DESTINATION];
    const facts = request({ at, principal, credential: `${who}`, address, agent, ja4: JA4, path, host });
    line.learn(facts, line.check(facts, policy));
  }
  return line;
}

function restoreMs(snapshot: Uint8Array): number {
  const line = emptyLine();
  return msOf(() => line.restore(snapshot));
}

function msOf(job: () => void): number {
  const start = performance.now();
  job();
  return performance.now() - start;
}

function report(figures: Readonly<Record<string, number>>): void {
  console.log(
    JSON.stringify(figures, (_, value) => (typeof value === "number" ? Math.round(value * 1_000) / 1_000 : value)),
  );
}
