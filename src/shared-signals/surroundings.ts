/** What shared signals need of the process that they run in; all of it is given, so that tests give their own. */

import type { OperatingError } from "../model/errors.ts";

/** What became of one security event token, for counting. */
export type ReceivedOutcome = "applied" | "nothing_to_do" | "duplicate" | "refused" | "not_now";

/** What became of one event that we sent, for counting. */
export type SentOutcome = "queued" | "delivered" | "superseded" | "given_up" | "dropped" | "refused_full";

export interface Telling {
  /** Fields are chosen by who tells; tokens never reach here. */
  log(
    level: "info" | "warn" | "error",
    event: string,
    fields: Readonly<Record<string, string | number>>,
    message: string,
  ): void;
  /**
   * Counts. Labels are from small fixed sets: names of the configuration, and words.
   * `received {transmitter, outcome, err?}`, `ignored {transmitter, why}`, `sent {receiver, outcome, event}`.
   */
  count(name: "received" | "ignored" | "sent", labels: Readonly<Record<string, string>>): void;
}

export interface Surroundings {
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  /** 0 to below 1, for spreading retries. */
  readonly random: () => number;
  readonly randomBytes: (size: number) => Uint8Array;
  readonly fetch: typeof fetch;
  /** Where to remember what must outlive a restart; `undefined`: memory only, replays after a restart are not seen. */
  readonly folder: string | undefined;
  readonly telling: Telling;
}

/** Logs an operating error by its code and message, and anything else by its kind. */
export function tellError(
  telling: Telling,
  event: string,
  error: unknown,
  fields: Readonly<Record<string, string>>,
): void {
  const known = error as Partial<OperatingError>;
  const code = typeof known.code === "string" ? known.code : error instanceof Error ? error.name : typeof error;
  telling.log("error", event, { ...fields, code }, error instanceof Error ? error.message : "unknown trouble");
}
