/** Finds the command that is meant, runs it, and turns what happened into an exit status. */

import { suggest } from "../bundle/problem.ts";
import { OperatingError } from "../model/errors.ts";
import { type Command, EXIT_BAD, EXIT_GOOD, EXIT_USAGE, helpOf, readInvocation, type Terminal } from "./command.ts";

/** By name, in the order of the overview. Only what is asked for is loaded: a sidecar carries no other command's code. */
const LOADERS: Readonly<Record<string, () => Promise<Command>>> = {
  serve: async () => (await import("./serve.ts")).serveCommand,
  check: async () => (await import("./check.ts")).checkCommand,
  test: async () => (await import("./test.ts")).testCommand,
  control: async () => (await import("./control.ts")).controlCommand,
  webhook: async () => (await import("./webhook.ts")).webhookCommand,
  fleet: async () => (await import("./fleet.ts")).fleetCommand,
  doctor: async () => (await import("./doctor.ts")).doctorCommand,
  replay: async () => (await import("./replay.ts")).replayCommand,
  cost: async () => (await import("./cost.ts")).costCommand,
  simulate: async () => (await import("./simulate.ts")).simulateCommand,
  explain: async () => (await import("./explain.ts")).explainCommand,
  tap: async () => (await import("./tap.ts")).tapCommand,
  shadow: async () => (await import("./shadow.ts")).shadowCommand,
  lock: async () => (await import("./locks.ts")).lockCommand,
  unlock: async () => (await import("./locks.ts")).unlockCommand,
  locks: async () => (await import("./locks.ts")).locksCommand,
  posture: async () => (await import("./posture.ts")).postureCommand,
  baseline: async () => (await import("./baseline.ts")).baselineCommand,
  "bundle build": async () => (await import("./bundle.ts")).buildCommand,
  "bundle sign": async () => (await import("./bundle.ts")).signCommand,
  "bundle verify": async () => (await import("./bundle.ts")).verifyCommand,
  "bundle inspect": async () => (await import("./bundle.ts")).inspectCommand,
  "bundle keygen": async () => (await import("./bundle-keys.ts")).keygenCommand,
  "bundle root": async () => (await import("./bundle-keys.ts")).rootCommand,
  inject: async () => (await import("./inject.ts")).injectCommand,
  uninject: async () => (await import("./uninject.ts")).uninjectCommand,
  version: async () => (await import("./version.ts")).versionCommand,
};
const NAMES = Object.keys(LOADERS);

/** Every command, in the order of the overview. */
export function allCommands(): Promise<readonly Command[]> {
  return Promise.all(Object.values(LOADERS).map((load) => load()));
}

/** @returns the exit status: 0 good, 1 the checked thing is bad, 2 usage */
export async function run(args: readonly string[], terminal: Terminal): Promise<number> {
  const [name, ...rest] = joinedName(args);
  if (name === undefined || name === "help" || name === "--help" || name === "-h") {
    terminal.out(overview(await allCommands()));
    return name === undefined ? EXIT_USAGE : EXIT_GOOD;
  }
  if (name === "--version" || name === "-v") return run(["version"], terminal);
  const load = Object.hasOwn(LOADERS, name) ? LOADERS[name] : undefined;
  if (load === undefined) return unknown(name, rest, terminal);
  const command = await load();
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
async function unknown(name: string, rest: readonly string[], { out, err }: Terminal): Promise<number> {
  const parts = (await allCommands()).filter((candidate) => candidate.name.startsWith(`${name} `));
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
  const meant = suggest(name, NAMES);
  err(`sallyport: unknown command ${JSON.stringify(name)}${meant === undefined ? "" : `; did you mean ${meant}?`}`);
  err("Run `sallyport help` for the list.");
  return EXIT_USAGE;
}

/** Arguments in which a name of two words, such as `bundle build`, is one. */
function joinedName(args: readonly string[]): readonly string[] {
  const [first, second, ...rest] = args;
  const both = `${first} ${second}`;
  return NAMES.includes(both) ? [both, ...rest] : args;
}

function overview(commands: readonly Command[]): string {
  const width = Math.max(...commands.map(({ name }) => name.length));
  return [
    "usage: sallyport COMMAND ...",
    "",
    ...commands.map(({ name, summary }) => `  ${name.padEnd(width)}  ${summary.split("\n")[0]}`),
    "",
    "`sallyport COMMAND --help` tells more.",
  ].join("\n");
}
