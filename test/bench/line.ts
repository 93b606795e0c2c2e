/** Usage: tsx line.ts CALLERS REQUESTS STATE_DIR   Cost of the line without transport; leaves what it learned behind. */

import type { Verdict } from "../../src/model/verdict.ts";
import { StateFiles } from "../../src/server/state-files.ts";
import { countingBytes, request } from "../support/requests.ts";
import { importBuilt } from "./built.ts";
import { callerOf, DESTINATION, JA4, pathOf } from "./callers.ts";

const [{ createLine }, { defaultPolicy }, { RecentDecisions }, { recordOf }] = (await importBuilt(
  ...["check/line", "bundle/default-policy", "telemetry/recent", "telemetry/decision-record"],
)) as [
  typeof import("../../src/check/line.ts"),
  typeof import("../../src/bundle/default-policy.ts"),
  typeof import("../../src/telemetry/recent.ts"),
  typeof import("../../src/telemetry/decision-record.ts"),
];

export interface LineFigures {
  readonly principals: number;
  readonly checkUs: number;
  readonly outcomeUs: number;
  /** A decision remembered as a line of the decision log, which is not written. */
  readonly logLineUs: number;
  /** Live heap of all that the line remembers. */
  readonly heapBytes: number;
  readonly snapshotMs: number;
  readonly snapshotBytes: number;
}

/** Requests made before they are measured, so that making them is not. */
const BLOCK = 1_000;
/** Between two requests of one caller. */
const INTERVAL_MS = 300_000;
const TOKEN_MS = 3_600_000;
/** Two simulated hours: an established caller. */
const WARM_REQUESTS = 24;
const WARM_REQUESTS_MIN = 20_000;

const LABELS = { id: "bench", version: "0" };

const [callers = 10, requests = 100_000] = process.argv.slice(2, 4).map(Number);
const warm = Math.max(WARM_REQUESTS * callers, WARM_REQUESTS_MIN);
const policy = defaultPolicy();
const heapBefore = heapBytes();
const line = createLine({ principalsMax: 10_000, sessionsMax: 20_000, random: countingBytes() });
const stepMs = INTERVAL_MS / callers;
let at = Date.now() - (warm + requests) * stepMs;
let count = 0;
const recent = new RecentDecisions(2_000, LABELS);

runFor(warm);
const { checkUs, outcomeUs, logLineUs } = runFor(requests);
const heapGrown = heapBytes() - heapBefore;
const before = performance.now();
const snapshot = line.snapshot(request({ at: Date.now() }).time);
const snapshotMs = performance.now() - before;
new StateFiles(process.argv[4] ?? ".").write(snapshot);
const figures: LineFigures = {
  principals: line.stats().principals,
  checkUs,
  outcomeUs,
  logLineUs,
  heapBytes: heapGrown,
  snapshotMs,
  snapshotBytes: snapshot.length,
};
console.log(JSON.stringify(figures));

function runFor(total: number): Pick<LineFigures, "checkUs" | "outcomeUs" | "logLineUs"> {
  let checks = 0;
  let logLines = 0;
  let outcomes = 0;
  for (let done = 0; done < total; done += BLOCK) {
    const facts = Array.from({ length: BLOCK }, nextRequest);
    const verdicts: Verdict[] = [];
    checks += cpuOf(() => {
      for (const one of facts) {
        const verdict = line.check(one, policy);
        line.learn(one, verdict);
        verdicts.push(verdict);
      }
    });
    const refused = verdicts.filter(({ enforced }) => enforced !== "allow").length;
    if (refused > BLOCK / 100) throw new Error(`${refused} of ${BLOCK} ordinary requests were refused`);
    logLines += cpuOf(() => {
      for (const [i, verdict] of verdicts.entries()) {
        recent.add(recordOf(facts[i] as (typeof facts)[number], verdict, 10));
      }
    });
    const ends = verdicts.map((verdict, i) => ({
      time: verdict.time,
      decisionId: verdict.decisionId,
      requestId: undefined,
      status: 200,
      grpcStatus: undefined,
      responseBytes: 500 + (i % 100),
      requestBytes: undefined,
      durationMs: 1,
      stage: "end" as const,
    }));
    outcomes += cpuOf(() => {
      for (const one of ends) line.outcome(one);
    });
  }
  return { checkUs: checks / total, outcomeUs: outcomes / total, logLineUs: logLines / total };
}

function nextRequest() {
  const who = count % callers;
  const path = pathOf(Math.floor(count / callers));
  const { spiffeId: principal, address, agent } = callerOf(who);
  count++;
  at += stepMs;
  const tokenAt = Math.floor(at / TOKEN_MS) * TOKEN_MS;
  const credential = `${who}-${tokenAt}`;
  return request({ at, principal, credential, address, agent, ja4: JA4, path, host: DESTINATION, issuedAt: tokenAt });
}

/** CPU time, microseconds. */
function cpuOf(job: () => void): number {
  const start = process.cpuUsage();
  job();
  const { user, system } = process.cpuUsage(start);
  return user + system;
}

function heapBytes(): number {
  if (globalThis.gc === undefined) throw new Error("run with --expose-gc");
  for (let pass = 0; pass < 3; pass++) globalThis.gc();
  return process.memoryUsage().heapUsed;
}
