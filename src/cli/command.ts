/** What a command is: its name, its flags, and how it is run; and how its arguments are read. */

import { parseArgs } from "node:util";
import { suggest } from "../bundle/problem.ts";
import { OperatingError } from "../model/errors.ts";

/** Exit statuses: all is well; the checked thing is bad; the command was not used rightly. */
export const EXIT_GOOD = 0;
export const EXIT_BAD = 1;
export const EXIT_USAGE = 2;

export interface Flag {
  readonly name: string;
  /** One letter, for `-f`. */
  readonly short?: string;
  /** Name of its value in help texts; `undefined` for a switch. */
  readonly value: string | undefined;
  readonly summary: string;
  /** May be given several times. */
  readonly many?: true;
}

export interface Invocation {
  readonly positionals: readonly string[];
  /** Values of flags that take one and may be given once. */
  readonly values: Readonly<Record<string, string | undefined>>;
  /** Values of flags that may be given several times, in order. */
  readonly lists: Readonly<Record<string, readonly string[]>>;
  /** Names of switches that were set. */
  readonly switches: ReadonlySet<string>;
  /** `--output json`. */
  readonly json: boolean;
}

export interface Terminal {
  /** Writes a line to standard output. */
  readonly out: (line: string) => void;
  /** Writes a line to standard error. */
  readonly err: (line: string) => void;
  readonly environment: Readonly<Record<string, string | undefined>>;
}

export interface Command {
  readonly name: string;
  /** What stands after the name, such as `POLICY`. */
  readonly arguments: string;
  /** Least and most number of positional arguments. */
  readonly positionals: readonly [number, number];
  readonly summary: string;
  readonly flags: readonly Flag[];
  readonly run: (invocation: Invocation, terminal: Terminal) => Promise<number>;
}

export const OUTPUT: Flag = { name: "output", value: "text|json", summary: "Form of the output; text by default." };

/** @throws {OperatingError} ERR_USAGE with what was found and, where one is near, what was probably meant */
export function readInvocation(command: Command, args: readonly string[]): Invocation {
  const flags = [...command.flags, OUTPUT];
  const known = new Map(flags.map((flag) => [flag.name, flag]));
  for (const arg of args) {
    if (arg === "--") break;
    const name = /^--([^=]+)/.exec(arg)?.[1];
    if (name === undefined || known.has(name)) continue;
    const meant = suggest(name, [...known.keys()]);
    throw usage(`${command.name}: unknown flag --${name}${meant === undefined ? "" : `; did you mean --${meant}?`}`);
  }
  let parsed: ReturnType<typeof parseArgs>;
  try {
    parsed = parseArgs({
      args: [...args],
      allowPositionals: true,
      strict: true,
      options: Object.fromEntries(
        flags.map(({ name, short, value, many }) => [
          name,
          {
            type: value === undefined ? "boolean" : "string",
            multiple: many === true,
            ...(short === undefined ? {} : { short }),
          } as const,
        ]),
      ),
    });
  } catch (cause) {
    throw usage(`${command.name}: ${cause instanceof Error ? cause.message.split(". ")[0] : "bad arguments"}`);
  }
  const [least, most] = command.positionals;
  const { length } = parsed.positionals;
  if (length < least || length > most) {
    const wanted = command.arguments === "" ? "no arguments" : command.arguments;
    throw usage(`${command.name}: expected ${wanted}, got ${length === 0 ? "nothing" : `${length} arguments`}`);
  }
  const output = parsed.values.output ?? "text";
  if (output !== "text" && output !== "json") {
    throw usage(`${command.name}: --output: expected text or json, got ${JSON.stringify(output)}`);
  }
  return {
    positionals: parsed.positionals,
    values: Object.fromEntries(
      Object.entries(parsed.values).flatMap(([name, value]) => (typeof value === "string" ? [[name, value]] : [])),
    ),
    lists: Object.fromEntries(
      Object.entries(parsed.values).flatMap(([name, value]) =>
        Array.isArray(value) ? [[name, value.filter((one) => typeof one === "string")]] : [],
      ),
    ),
    switches: new Set(Object.entries(parsed.values).flatMap(([name, value]) => (value === true ? [name] : []))),
    json: output === "json",
  };
}

export function usage(message: string): OperatingError {
  return new OperatingError("ERR_USAGE", message);
}

/** @throws {OperatingError} ERR_USAGE when a flag's value is none of its choices */
export function choice<Choice extends string>(
  command: string,
  value: string,
  name: string,
  choices: readonly Choice[],
): Choice {
  const found = choices.find((candidate) => candidate === value);
  if (found === undefined)
    throw usage(`${command}: --${name}: expected ${choices.join(", ")}, got ${JSON.stringify(value)}`);
  return found;
}

export function helpOf(command: Command): string {
  const lines = [`usage: sallyport ${command.name} ${command.arguments}`.trimEnd(), "", command.summary, ""];
  for (const flag of [...command.flags, OUTPUT]) {
    const value = flag.value === undefined ? "" : ` ${flag.value}${flag.many === true ? " ..." : ""}`;
    const short = flag.short === undefined ? "" : `-${flag.short}, `;
    lines.push(`  ${short}--${flag.name}${value}`, `        ${flag.summary}`);
  }
  return lines.join("\n");
}
