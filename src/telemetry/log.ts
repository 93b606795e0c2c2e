/** The program's own log: events as JSON lines on standard error. */

import { writeSync } from "node:fs";
import { OperatingError } from "../model/errors.ts";

/** From the quietest up; `silent` says nothing at all. */
const LEVELS = ["debug", "info", "warn", "error", "silent"] as const;
export type LogLevel = (typeof LEVELS)[number];

/** Fields are chosen by who logs; values of headers, tokens and keys never reach here. What is `undefined` is left out. */
export type LogFields = Readonly<Record<string, unknown>>;

/** Says one event: what it is in `fields.event`, and in words. */
export interface Logger {
  debug(fields: LogFields, message: string): void;
  info(fields: LogFields, message: string): void;
  warn(fields: LogFields, message: string): void;
  error(fields: LogFields, message: string): void;
}

const STANDARD_ERROR = 2;
/** How often a reader who takes nothing for now is asked again. */
const BUSY_MS = 10;

/**
 * @param write takes a whole line with its end; default: standard error
 * @param now milliseconds since the Unix epoch
 */
export function createLog(
  level: LogLevel,
  write: (line: string) => void = lineWriter(STANDARD_ERROR),
  now: () => number = Date.now,
): Logger {
  const from = LEVELS.indexOf(level);
  const say = (of: LogLevel): Logger["info"] =>
    LEVELS.indexOf(of) < from
      ? () => undefined
      : (fields, message) => write(`${lineOf(of, new Date(now()).toISOString(), fields, message)}\n`);
  return { debug: say("debug"), info: say("info"), warn: say("warn"), error: say("error") };
}

/** Level and time first, the words last, and between them the fields in their order. */
function lineOf(level: LogLevel, time: string, fields: LogFields, message: string): string {
  let line = `{"level":"${level}","time":"${time}"`;
  for (const [name, value] of Object.entries(fields)) {
    const text = JSON.stringify(value, withoutBigints) as string | undefined;
    if (text !== undefined) line += `,${JSON.stringify(name)}:${text}`;
  }
  return `${line},"message":${JSON.stringify(message)}}`;
}

/** JSON has no numbers that are only whole. */
function withoutBigints(_: string, value: unknown): unknown {
  return typeof value === "bigint" ? String(value) : value;
}

/**
 * Writes lines at once, so that the last one before a crash is there as well. A reader who is slow is waited for, as it is
 * wherever a descriptor blocks; one who has left is told nothing more; a line that a full disk does not take is lost.
 * None of that ends anything.
 */
export function lineWriter(descriptor: number, write: typeof writeSync = writeSync): (line: string) => void {
  let gone = false;
  return (line) => {
    let rest: Buffer = Buffer.from(line);
    while (!gone && rest.length > 0) {
      try {
        rest = rest.subarray(write(descriptor, rest));
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException;
        if (code === "EAGAIN") {
          Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, BUSY_MS);
          continue;
        }
        // Goes on without the line, or without a log: decisions come first.
        gone = code === "EPIPE";
        return;
      }
    }
  };
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
