/** The program's own log: events as JSON lines on standard error. */

import { destination, type Logger, pino } from "pino";
import { OperatingError } from "../model/errors.ts";

export type LogLevel = "debug" | "info" | "warn" | "error" | "silent";
export type { Logger } from "pino";

/** Fields are chosen by who logs; values of headers, tokens and keys never reach here. */
export function createLog(level: LogLevel): Logger {
  return pino(
    {
      level,
      base: null,
      messageKey: "message",
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    destination({ fd: 2, sync: true }),
  );
}

/** What may be said of an error: its code and message where it is ours, else only its kind and place. */
export function errorFields(error: unknown): Record<string, string> {
  if (error instanceof OperatingError) return { code: error.code, error: error.message };
  if (error instanceof Error) {
    // A foreign message may quote its input, which may be a secret: the place is what a maintainer needs.
    return { code: error.name, at: error.stack?.split("\n").slice(1, 4).join(" ").trim() ?? "" };
  }
  return { code: typeof error };
}
