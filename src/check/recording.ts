/** Writes down everything a line is told and what it answered, and plays that back: the same stream, the same decisions. */

import { OperatingError } from "../model/errors.ts";
import type { Outcome, RequestFacts } from "../model/facts.ts";
import type { Line } from "../model/line.ts";
import type { Lock, Policy, PostureFacts } from "../model/policy.ts";
import { type EpochMs, toEpochMs } from "../model/units.ts";
import type { Verdict } from "../model/verdict.ts";
import type { WorkloadChange } from "../model/workloads.ts";
import { createLine, type LineOptions } from "./line.ts";

/** One thing that the line was told. Facts hold no secret: credentials are keyed hashes already. */
export type RecordedEvent =
  | { readonly told: "check"; readonly facts: RequestFacts; readonly verdict: Verdict }
  | { readonly told: "learn"; readonly facts: RequestFacts; readonly verdict: Verdict }
  | { readonly told: "outcome"; readonly outcome: Outcome }
  | { readonly told: "lock"; readonly lock: Lock }
  | { readonly told: "unlock"; readonly id: string }
  | { readonly told: "posture"; readonly subject: string; readonly facts: PostureFacts }
  | { readonly told: "workloads"; readonly change: WorkloadChange; readonly at: EpochMs }
  | { readonly told: "workloads confirmed"; readonly at: EpochMs | undefined }
  | { readonly told: "workloads forgotten" };

/** A line that does what `line` does and tells `write` of it. */
export function recording(line: Line, write: (event: RecordedEvent) => void): Line {
  return {
    check: (facts, policy) => {
      const verdict = line.check(facts, policy);
      write({ told: "check", facts, verdict });
      return verdict;
    },
    preview: (facts, policy) => line.preview(facts, policy),
    review: (facts, policy) => line.review(facts, policy),
    standing: (facts, policy) => {
      const verdict = line.standing(facts, policy);
      if (verdict !== undefined) write({ told: "check", facts, verdict });
      return verdict;
    },
    learn: (facts, verdict) => {
      line.learn(facts, verdict);
      write({ told: "learn", facts, verdict });
    },
    outcome: (outcome) => {
      line.outcome(outcome);
      write({ told: "outcome", outcome });
    },
    answer: (facts, verdict, verified) => line.answer(facts, verdict, verified),
    locks: {
      list: (now) => line.locks.list(now),
      match: (facts, identity, peerGroup, now) => line.locks.match(facts, identity, peerGroup, now),
      add: (lock) => {
        line.locks.add(lock);
        write({ told: "lock", lock });
      },
      remove: (id) => {
        const removed = line.locks.remove(id);
        if (removed) write({ told: "unlock", id });
        return removed;
      },
    },
    posture: {
      put: (subject, facts) => {
        line.posture.put(subject, facts);
        write({ told: "posture", subject, facts });
      },
      get: (subject) => line.posture.get(subject),
    },
    workloads: {
      change: (change, at) => {
        line.workloads.change(change, at);
        write({ told: "workloads", change, at });
      },
      confirm: (at) => {
        line.workloads.confirm(at);
        write({ told: "workloads confirmed", at });
      },
      clear: () => {
        line.workloads.clear();
        write({ told: "workloads forgotten" });
      },
      get size() {
        return line.workloads.size;
      },
    },
    stats: () => line.stats(),
    principals: () => line.principals(),
    forget: (principal) => line.forget(principal),
    scoreBands: (levels) => line.scoreBands(levels),
    snapshot: (now: EpochMs, part) => line.snapshot(now, part),
    snapshotSteps: (now) => line.snapshotSteps(now),
    restore: (bytes) => line.restore(bytes),
  };
}

/** A decision that came out differently. */
export interface Difference {
  readonly decisionId: string;
  readonly recorded: string;
  readonly replayed: string;
}

/**
 * Plays events back through a new line.
 * @param policies by revision, as they were in force
 * @returns how many checks were played, and those that came out differently
 * @throws {OperatingError} ERR_NOT_FOUND when a policy of the recording is missing
 */
export function playBack(
  events: Iterable<RecordedEvent>,
  policies: ReadonlyMap<string, Policy>,
  options: Omit<LineOptions, "random" | "onLock">,
): { readonly checks: number; readonly differences: readonly Difference[] } {
  let next = "";
  const line = createLine({ ...options, random: () => bytesOf(next) });
  const differences: Difference[] = [];
  let checks = 0;
  for (const event of events) {
    switch (event.told) {
      case "check": {
        const policy = policies.get(event.verdict.policyRevision);
        if (policy === undefined) {
          throw new OperatingError(
            "ERR_NOT_FOUND",
            `policy ${event.verdict.policyRevision} of the recording is missing`,
          );
        }
        next = event.verdict.decisionId;
        const facts = { ...event.facts, time: toEpochMs(event.facts.time) };
        const verdict = event.verdict.basis === "standing" ? line.standing(facts, policy) : line.check(facts, policy);
        const [recorded, replayed] = [JSON.stringify(event.verdict), JSON.stringify(verdict)];
        if (recorded !== replayed) differences.push({ decisionId: next, recorded, replayed });
        checks++;
        break;
      }
      case "learn":
        line.learn(event.facts, event.verdict);
        break;
      case "outcome":
        line.outcome(event.outcome);
        break;
      case "lock":
        line.locks.add(event.lock);
        break;
      case "unlock":
        line.locks.remove(event.id);
        break;
      case "posture":
        line.posture.put(event.subject, event.facts);
        break;
      case "workloads":
        line.workloads.change(event.change, toEpochMs(event.at));
        break;
      case "workloads confirmed":
        line.workloads.confirm(event.at);
        break;
      case "workloads forgotten":
        line.workloads.clear();
        break;
    }
  }
  return { checks, differences };
}

/** The sixteen bytes of a UUID: the ids of a recording come out again. */
function bytesOf(uuid: string): Uint8Array {
  return Uint8Array.from(uuid.replaceAll("-", "").match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
}
