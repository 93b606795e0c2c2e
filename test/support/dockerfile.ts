/** Reads a Dockerfile and judges it by the rules that matter for this project's image. */

/** One instruction, continued lines joined, arguments of builds filled in with their defaults. */
export interface Instruction {
  /** Of its first line, from 1. */
  readonly line: number;
  readonly name: string;
  /** `--from=build` and the like. */
  readonly flags: Readonly<Record<string, string>>;
  readonly text: string;
}

export interface Stage {
  /** As `FROM` names it, with the defaults of `ARG` filled in. */
  readonly base: string;
  readonly name: string | undefined;
  readonly instructions: readonly Instruction[];
}

export interface Dockerfile {
  readonly stages: readonly Stage[];
}

/** What is around it. */
export interface Surroundings {
  /** Whether the repository has this file or folder. */
  readonly exists: (path: string) => boolean;
  /** The text of `.dockerignore`. */
  readonly ignore: string;
  readonly version: string;
  /** Paths of the files that the image gets below `/app`. */
  readonly appFiles: readonly string[];
}

export function parseDockerfile(text: string): Dockerfile {
  const defaults = new Map<string, string>();
  const stages: { base: string; name: string | undefined; instructions: Instruction[] }[] = [];
  for (const { line, text: whole } of joinedLines(text)) {
    const [, name = "", rest = ""] = /^(\w+)\s+([\s\S]*)$/.exec(whole) ?? [];
    const flags: Record<string, string> = {};
    let words = rest;
    for (let flag = FLAG.exec(words); flag !== null; flag = FLAG.exec(words)) {
      flags[flag[1] as string] = flag[2] as string;
      words = words.slice(flag[0].length);
    }
    const instruction: Instruction = { line, name: name.toUpperCase(), flags, text: words };
    const stage = stages.at(-1);
    if (instruction.name === "FROM") {
      const [, base = "", stageName] = /^(\S+)(?:\s+AS\s+(\S+))?$/i.exec(words) ?? [];
      const filled = base.replace(/\$\{?(\w+)\}?/g, (_, variable: string) => defaults.get(variable) ?? "");
      stages.push({ base: filled, name: stageName, instructions: [instruction] });
    } else if (stage === undefined) {
      const [, variable, value] = /^(\w+)=(.*)$/.exec(words) ?? [];
      if (instruction.name === "ARG" && variable !== undefined) defaults.set(variable, value as string);
    } else {
      stage.instructions.push(instruction);
    }
  }
  return { stages };
}

const FLAG = /^--([\w-]+)=(\S+)\s+/;

function joinedLines(text: string): readonly { readonly line: number; readonly text: string }[] {
  const joined: { line: number; text: string }[] = [];
  let open = false;
  for (const [index, raw] of text.split("\n").entries()) {
    if (/^\s*(?:#|$)/.test(raw)) continue; // comments may stand between continued lines
    const part = raw.replace(/\\\s*$/, "").trim();
    const last = joined.at(-1);
    if (open && last !== undefined) last.text += ` ${part}`;
    else joined.push({ line: index + 1, text: part });
    open = /\\\s*$/.test(raw);
  }
  return joined;
}

const SECRET = /secret|token|passw|credential|private|api_?key/i;
const LABELS_WANTED = ["title", "description", "licenses", "version", "revision"];

/** @returns what is wrong, each with its rule's name; empty: nothing */
export function lintDockerfile(text: string, around: Surroundings): readonly string[] {
  const { stages } = parseDockerfile(text);
  const found: string[] = [];
  const refuse = (rule: string, what: string) => found.push(`${rule}: ${what}`);
  const names = new Set(stages.map(({ name }) => name));
  const final = stages.at(-1);
  if (final === undefined) return ["stages: there is none"];

  for (const { base, instructions } of stages) {
    if (!names.has(base) && !/^[\w.-]+\.[\w.-]+\/\S+:[\w.-]+@sha256:[0-9a-f]{64}$/.test(base)) {
      refuse("pinned", `${base}: expected HOST/NAME:TAG@sha256:DIGEST`);
    }
    if (/:latest\b/.test(base)) refuse("pinned", `${base}: latest is no version`);
    for (const { line, name, flags, text: words } of instructions) {
      if (name === "ADD") refuse("no-add", `line ${line}: COPY is enough, and fetches and unpacks nothing`);
      if (name === "WORKDIR" && !words.startsWith("/")) refuse("workdir", `line ${line}: ${words} is relative`);
      if (name === "SHELL") refuse("no-shell", `line ${line}`);
      if (name === "COPY") lintCopy(words, flags, line, around, names, refuse);
      if (name === "RUN") lintRun(words, line, refuse);
      if ((name === "ENV" || name === "ARG" || name === "LABEL") && SECRET.test(words)) {
        refuse("no-secrets", `line ${line}: ${name} stays readable in the image`);
      }
    }
  }
  lintFinal(final, around, refuse);
  return found;
}

type Refuse = (rule: string, what: string) => void;

function lintCopy(
  words: string,
  flags: Instruction["flags"],
  line: number,
  around: Surroundings,
  stages: ReadonlySet<string | undefined>,
  refuse: Refuse,
): void {
  if (flags.from !== undefined) {
    if (!stages.has(flags.from)) refuse("copy-from", `line ${line}: no stage ${flags.from}`);
    return;
  }
  for (const source of words.split(/\s+/).slice(0, -1)) {
    if (source === "." || /[*?]/.test(source)) refuse("copy-named", `line ${line}: ${source} is not one thing`);
    else if (!around.exists(source)) refuse("copy-exists", `line ${line}: ${source} is not there`);
    else if (isIgnored(source, around.ignore))
      refuse("copy-let-through", `line ${line}: .dockerignore holds ${source} back`);
  }
}

function lintRun(words: string, line: number, refuse: Refuse): void {
  for (const command of words.split(/&&|;|\|\|?/)) {
    if (/\bnpm (?:i|install|add|update)\b/.test(command))
      refuse("npm-ci", `line ${line}: npm ci keeps to the lockfile`);
    if (/\bnpm ci\b/.test(command) && !/--ignore-scripts\b/.test(command)) {
      refuse("npm-ci", `line ${line}: scripts of dependencies would run`);
    }
    if (/\b(?:sudo|curl|wget|apt|apt-get|apk|dnf)\b/.test(command))
      refuse("no-fetch", `line ${line}: ${command.trim()}`);
  }
}

function lintFinal({ instructions }: Stage, around: Surroundings, refuse: Refuse): void {
  const all = (name: string) => instructions.filter((instruction) => instruction.name === name);
  const one = (name: string): string => {
    const found = all(name);
    if (found.length !== 1) refuse("once", `${name}: expected one in the last stage, found ${found.length}`);
    return found[0]?.text ?? "";
  };
  const user = one("USER");
  if (!/^[1-9]\d*:[1-9]\d*$/.test(user)) refuse("user", `expected UID:GID by number and not root, got ${user}`);
  for (const { line, flags } of all("COPY")) {
    if (flags.chown !== undefined && flags.chown !== user)
      refuse("user", `line ${line}: owner ${flags.chown}, user ${user}`);
    if (flags.from === undefined) refuse("built-only", `line ${line}: the last stage takes only what was built`);
  }
  if (all("RUN").length > 0) refuse("no-shell", "the last stage has no shell to RUN");
  if (one("STOPSIGNAL") !== "SIGTERM") refuse("stopsignal", "serve drains at SIGTERM");
  one("HEALTHCHECK"); // decided, either way
  for (const name of ["ENTRYPOINT", "CMD"]) {
    const words = execForm(one(name));
    if (words === undefined) refuse("exec-form", `${name}: signals would go to a shell`);
    else if (name === "ENTRYPOINT") {
      for (const word of words.filter((word) => !word.startsWith("/")))
        refuse("exec-form", `${word}: expected a whole path`);
      const script = words[1]?.replace(/^\/app\//, "") ?? "";
      if (!around.appFiles.includes(script)) refuse("entrypoint", `${words[1]}: the image has no such file`);
    }
  }
  const labels = all("LABEL")
    .map(({ text }) => text)
    .join(" ");
  for (const label of LABELS_WANTED) {
    if (!labels.includes(`org.opencontainers.image.${label}=`))
      refuse("labels", `no org.opencontainers.image.${label}`);
  }
  const version = all("ARG")
    .map(({ text }) => /^VERSION=(.*)$/.exec(text)?.[1])
    .find((value) => value !== undefined);
  if (version !== around.version) refuse("version", `expected ${around.version} as in package.json, got ${version}`);
}

/** The words of `["a", "b"]`; `undefined` for the form that a shell takes apart. */
export function execForm(text: string): readonly string[] | undefined {
  try {
    const words: unknown = JSON.parse(text);
    return Array.isArray(words) && words.every((word) => typeof word === "string") ? words : undefined;
  } catch {
    return undefined; // the shell's form: for the caller to judge
  }
}

/**
 * Whether `.dockerignore` keeps a path from the builder; the last line that fits counts.
 * @throws {Error} for patterns other than `*`, `NAME` and `!NAME`: wider ones are not needed here, and not known here
 */
export function isIgnored(path: string, ignore: string): boolean {
  let ignored = false;
  for (const raw of ignore.split("\n")) {
    const pattern = raw.trim();
    if (pattern === "" || pattern.startsWith("#")) continue;
    const name = pattern.replace(/^!/, "");
    if (name !== "*" && !/^[\w.-]+$/.test(name))
      throw new Error(`.dockerignore: expected *, NAME or !NAME, got ${pattern}`);
    if (name === "*" || path === name || path.startsWith(`${name}/`)) ignored = !pattern.startsWith("!");
  }
  return ignored;
}
