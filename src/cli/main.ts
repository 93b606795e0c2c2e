/** Finds the command that is meant, runs it, and turns what happened into an exit status. */

import { suggest } from "../bundle/problem.ts";
import { OperatingError } from "../model/errors.ts";
import { baselineCommand } from "./baseline.ts";
import { buildCommand, inspectCommand, signCommand, verifyCommand } from "./bundle.ts";
import { keygenCommand, rootCommand } from "./bundle-keys.ts";
import { checkCommand } from "./check.ts";
import { type Command, EXIT_BAD, EXIT_GOOD, EXIT_USAGE, helpOf, readInvocation, type Terminal } from "./command.ts";
import { controlCommand } from "./control.ts";
import { costCommand } from "./cost.ts";
import { doctorCommand } from "./doctor.ts";
import { explainCommand } from "./explain.ts";
import { fleetCommand } from "./fleet.ts";
import { lockCommand, locksCommand, unlockCommand } from "./locks.ts";
import { postureCommand } from "./posture.ts";
import { replayCommand } from "./replay.ts";
import { serveCommand } from "./serve.ts";
import { shadowCommand } from "./shadow.ts";
import { simulateCommand } from "./simulate.ts";
import { tapCommand } from "./tap.ts";
import { testCommand } from "./test.ts";
import { versionCommand } from "./version.ts";

export const COMMANDS: readonly Command[] = [
  serveCommand,
  checkCommand,
  testCommand,
  controlCommand,
  fleetCommand,
  doctorCommand,
  replayCommand,
  costCommand,
  simulateCommand,
  explainCommand,
  tapCommand,
  shadowCommand,
  lockCommand,
  unlockCommand,
  locksCommand,
  postureCommand,
  baselineCommand,
  buildCommand,
  signCommand,
  verifyCommand,
  inspectCommand,
  keygenCommand,
  rootCommand,
  versionCommand,
];

/** @returns the exit status: 0 good, 1 the checked thing is bad, 2 usage */
export async function run(args: readonly string[], terminal: Terminal): Promise<number> {
  const [name, ...rest] = joinedName(args);
  if (name === undefined || name === "help" || name === "--help" || name === "-h") {
    terminal.out(overview());
    return name === undefined ? EXIT_USAGE : EXIT_GOOD;
  }
  if (name === "--version" || name === "-v") return run(["version"], terminal);
  const command = COMMANDS.find((candidate) => candidate.name === name);
  if (command === undefined) return unknown(name, rest, terminal);
  if (rest.includes("--help") || rest.includes("-h")) {
    terminal.out(helpOf(command));
    return EXIT_GOOD;
  }
  try {
    return await command.run(readInvocation(command, rest), terminal);
  } catch (error) {
    if (!(error instanceof OperatingError)) throw error;
    terminal.err(`sallyport ${named(command, error.message)} (${error.code})`);
    return error.code === "ERR_USAGE" ? EXIT_USAGE : EXIT_BAD;
  }
}

/** A message under its command's name, which many messages of usage begin with already. */
function named({ name }: Command, message: string): string {
  const isNamed = message.startsWith(`${name}: `) || (message.startsWith(`${name} `) && /^[a-zA-Z ]+: /.test(message));
  return isNamed ? message : `${name}: ${message}`;
}

/** Says what was probably meant; or the list, of a first word that needs a second. */
function unknown(name: string, rest: readonly string[], { out, err }: Terminal): number {
  const parts = COMMANDS.filter((candidate) => candidate.name.startsWith(`${name} `));
  if (parts.length > 0) {
    const lines = parts.map((part) => `  sallyport ${part.name} ${part.arguments}`.trimEnd());
    if (rest[0] === "--help" || rest[0] === "-h") {
      for (const line of lines) out(line);
      return EXIT_GOOD;
    }
    const seconds = parts.map((part) => part.name.slice(name.length + 1));
    const got = rest[0] === undefined ? "nothing" : JSON.stringify(rest[0]);
    const meant = rest[0] === undefined ? undefined : suggest(rest[0], seconds);
    err(
      `sallyport ${name}: expected ${seconds.join(", ")}, got ${got}${meant === undefined ? "" : `; did you mean ${meant}?`}`,
    );
    for (const line of lines) err(line);
    return EXIT_USAGE;
  }
  const meant = suggest(
    name,
    COMMANDS.map((candidate) => candidate.name),
  );
  err(`sallyport: unknown command ${JSON.stringify(name)}${meant === undefined ? "" : `; did you mean ${meant}?`}`);
  err("Run `sallyport help` for the list.");
  return EXIT_USAGE;
}

/** Arguments in which a name of two words, such as `bundle build`, is one. */
function joinedName(args: readonly string[]): readonly string[] {
  const [first, second, ...rest] = args;
  const both = `${first} ${second}`;
  return COMMANDS.some(({ name }) => name === both) ? [both, ...rest] : args;
}

function overview(): string {
  const width = Math.max(...COMMANDS.map(({ name }) => name.length));
  return [
    "usage: sallyport COMMAND ...",
    "",
    ...COMMANDS.map(({ name, summary }) => `  ${name.padEnd(width)}  ${summary.split("\n")[0]}`),
    "",
    "`sallyport COMMAND --help` tells more.",
  ].join("\n");
}
