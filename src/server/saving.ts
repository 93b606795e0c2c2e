/** Writes what was learned: every so often in slices, with room for requests in between, and whole at the end. */

import type { Line } from "../model/line.ts";
import { toEpochMs } from "../model/units.ts";
import { errorFields, type Logger } from "../telemetry/log.ts";
import type { StateFiles } from "./state-files.ts";

/** How long requests may have to wait for one slice of the work. */
const SLICE_MS = 0.3;

export interface SavingOptions {
  readonly line: Pick<Line, "snapshot" | "snapshotSteps">;
  readonly state: Pick<StateFiles, "write" | "writeSlices">;
  readonly intervalMs: number;
  /** Milliseconds since the Unix epoch. */
  readonly now: () => number;
  readonly log: Logger;
  /** Told of every snapshot that was written, or could not be; not of one that was given up for the last one. */
  readonly onSaved: (result: "written" | "failed") => void;
}

export interface Saving {
  /** Writes a snapshot in slices now; does nothing while one is being written. Never rejects. */
  save(): Promise<void>;
  /** Ends it: gives up the snapshot that is being written, and writes a last one at once. Never rejects. */
  close(): Promise<void>;
}

/** Saves from now on, one snapshot at a time. */
export function startSaving({ line, state, intervalMs, now, log, onSaved }: SavingOptions): Saving {
  let underWay: Promise<void> | undefined;
  let closing = false;

  const failed = (error: unknown): void => {
    onSaved("failed"); // keeps deciding; the last snapshot is still there
    log.error({ event: "state.unwritable", ...errorFields(error) }, "what was learned could not be written");
  };
  const inSlices = async (): Promise<void> => {
    try {
      const steps = line.snapshotSteps(toEpochMs(now()));
      if (await state.writeSlices(() => nextSlice(steps, () => closing))) onSaved("written");
    } catch (error) {
      failed(error);
    }
  };
  const save = (): Promise<void> => {
    if (closing) return Promise.resolve();
    underWay ??= inSlices().finally(() => {
      underWay = undefined;
    });
    return underWay;
  };
  const timer = setInterval(save, intervalMs);
  timer.unref();

  const close = async (): Promise<void> => {
    clearInterval(timer);
    closing = true;
    // Both write to one file beside the last snapshot.
    await underWay;
    try {
      state.write(line.snapshot(toEpochMs(now())));
      onSaved("written");
    } catch (error) {
      failed(error);
    }
  };
  return { save, close };
}

/** Takes steps, a few between requests, until there is something to write. */
async function nextSlice(
  steps: Iterator<Uint8Array | undefined, void>,
  isGivenUp: () => boolean,
): Promise<Uint8Array | "end" | "given up"> {
  for (;;) {
    await new Promise(setImmediate);
    if (isGivenUp()) return "given up";
    const until = performance.now() + SLICE_MS;
    do {
      const step = steps.next();
      if (step.done === true) return "end";
      if (step.value !== undefined) return step.value;
    } while (performance.now() < until);
  }
}
