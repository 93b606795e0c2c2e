/** Reads an `InjectorConfig`: YAML, closed, every problem at once with its place. */

import { isMap, isScalar, isSeq, type Node, type Pair, type YAMLMap } from "yaml";
import { fileProblem, formatProblem, type Problem, quote, suggest } from "../bundle/problem.ts";
import { memberPath, type Source } from "../bundle/source.ts";
import { parseTree, type Tree } from "../bundle/tree.ts";
import { OperatingError } from "../model/errors.ts";
import { readConfig } from "../server/config.ts";
import { SETTINGS } from "../server/settings.ts";
import { ANNOTATION_NAMES } from "./annotations.ts";
import { canonicalText, type InjectorConfig, type PolicySource } from "./config.ts";
import { CONFIG_FIELDS, type Field, type Members, QUANTITY, type TextForm } from "./fields.ts";
import { digestOf } from "./hash.ts";
import type { Json, JsonObject } from "./json.ts";
import { MANAGED_SETTINGS, OWN_ENVIRONMENT, serveSettings } from "./serve-settings.ts";

const API_VERSION = "sallyport.dev/v1";
const KIND = "InjectorConfig";

/** Most problems that are listed. */
const PROBLEMS_MAX = 100;

/**
 * Reads the text of an `InjectorConfig`.
 *
 * @param text YAML 1.2 or JSON, one document
 * @param where its name, for messages
 * @throws {OperatingError} ERR_CONFIG_INVALID with every problem at once, each with its line and column
 */
export function parseInjectorConfig(text: string, where: string): InjectorConfig {
  const parsed = parseTree(text, where);
  if (!parsed.ok) throw invalid(parsed.problems);
  const { tree, source } = parsed;
  const reader: Reader = { tree, source };
  const head: Members = {
    apiVersion: { kind: "choice", choices: [API_VERSION], fallback: undefined, summary: "Form of this file." },
    kind: { kind: "choice", choices: [KIND], fallback: undefined, summary: "What it is." },
  };
  const value = readMembers(reader, { ...head, ...CONFIG_FIELDS }, tree.root, "", 0);
  if (value !== undefined) checkTogether(value, source);
  if (value === undefined || source.problems.length > 0) throw invalid(source.problems);
  const config = configOf(value);
  checkSettings(config, source);
  if (source.problems.length > 0) throw invalid(source.problems);
  return config;
}

function invalid(problems: readonly Problem[]): OperatingError {
  const sorted = problems.toSorted((a, b) => (a.line ?? 0) - (b.line ?? 0) || (a.column ?? 0) - (b.column ?? 0));
  const shown = sorted.slice(0, PROBLEMS_MAX);
  if (sorted.length > shown.length) {
    shown.push(fileProblem(sorted[0]!.file, "no other problems", `${sorted.length - shown.length} more`));
  }
  return new OperatingError("ERR_CONFIG_INVALID", shown.map(formatProblem).join("\n"));
}

interface Reader {
  readonly tree: Tree;
  readonly source: Source;
}

/** What was read, by the names of the keys; every key with a fallback is there. */
type Read = Readonly<Record<string, unknown>>;

function readMembers(
  reader: Reader,
  members: Members,
  given: Node | null,
  path: string,
  offset: number,
): Read | undefined {
  const { source } = reader;
  const node = reader.tree.resolve(given);
  if (node === undefined) return undefined; // a bad alias, which was reported
  source.note(path, startOf(node, offset), kindOf(node));
  if (!isMap(node)) {
    source.report(path, "a mapping");
    return undefined;
  }
  const found = new Map<string, { readonly item: Node | null; readonly at: number }>();
  for (const { name, at, item } of entriesOf(reader, node, path)) {
    if (Object.hasOwn(members, name)) found.set(name, { item, at });
    else {
      const near = suggest(name, Object.keys(members));
      const expected = near === undefined ? `one of the keys ${Object.keys(members).join(", ")}` : "a known key";
      source.reportAt(at, memberPath(path, name), expected, quote(name), near);
      if (near !== undefined) source.excuse(memberPath(path, near));
    }
  }
  const value: Record<string, unknown> = {};
  for (const [name, field] of Object.entries(members)) {
    const member = found.get(name);
    const at = memberPath(path, name);
    if (member === undefined) value[name] = absent(source, field, at);
    else value[name] = readField(reader, field, member.item, at, member.at);
  }
  return value;
}

/** What a key means that is not there. */
function absent(source: Source, field: Field, path: string): unknown {
  switch (field.kind) {
    case "text":
    case "choice":
      if (field.fallback === undefined && !source.isFaulty(path)) source.report(path, expectedOf(field), "nothing");
      return field.fallback;
    case "integer":
    case "resources":
      return field.fallback;
    case "true":
    case "annotations":
      return undefined;
    case "names":
    case "environment":
      return [];
    case "settings":
      return {};
    case "group":
      if (field.absent === true) return undefined;
      return Object.fromEntries(
        Object.entries(field.members).map(([name, member]) => [name, absent(source, member, memberPath(path, name))]),
      );
  }
}

function expectedOf(field: Field & { readonly kind: "text" | "choice" }): string {
  if (field.kind === "text") return field.form.expected;
  return field.choices.length === 1 ? field.choices[0]! : `one of ${field.choices.join(", ")}`;
}

function readField(reader: Reader, field: Field, given: Node | null, path: string, offset: number): unknown {
  const { source } = reader;
  if (field.kind === "group") return readMembers(reader, field.members, given, path, offset);
  const node = reader.tree.resolve(given);
  if (node === undefined) return undefined; // a bad alias, which was reported
  source.note(path, startOf(node, offset), describe(node));
  const value: unknown = isScalar(node) ? node.value : undefined;
  switch (field.kind) {
    case "text": {
      if (typeof value === "string" && value === "" && field.fallback === "") return value;
      return textOf(source, node, path, field.form);
    }
    case "choice": {
      if (typeof value === "string" && field.choices.includes(value)) return value;
      const near = typeof value === "string" ? suggest(value, field.choices) : undefined;
      source.report(path, expectedOf(field), undefined, near);
      return undefined;
    }
    case "integer": {
      const [least, most] = field.range;
      if (typeof value === "number" && Number.isInteger(value) && value >= least && value <= most) return value;
      source.report(path, `a whole number from ${least} to ${most}`);
      return undefined;
    }
    case "true":
      if (value !== true) source.report(path, "true");
      return true;
    case "names":
      return itemsOf(source, node, path).map((item, index) => {
        const at = `${path}[${index}]`;
        const one = reader.tree.resolve(item) ?? null;
        source.note(at, startOf(one, offset), describe(one));
        return textOf(source, one, at, field.form) ?? "";
      });
    case "annotations":
      return itemsOf(source, node, path).map((item, index) => {
        const at = `${path}[${index}]`;
        const one = reader.tree.resolve(item) ?? null;
        source.note(at, startOf(one, offset), describe(one));
        const name: unknown = isScalar(one) ? one.value : undefined;
        if (typeof name === "string" && ANNOTATION_NAMES.includes(name)) return name;
        const near = typeof name === "string" ? suggest(name, ANNOTATION_NAMES) : undefined;
        source.report(at, `one of ${ANNOTATION_NAMES.join(", ")}`, undefined, near);
        return "";
      });
    case "settings":
      return readSettings(reader, node, path);
    case "resources":
      return readResources(reader, node, path);
    case "environment":
      return readEnvironment(reader, node, path);
  }
}

function textOf(source: Source, node: Node | null, path: string, form: TextForm): string | undefined {
  const value: unknown = isScalar(node) ? node.value : undefined;
  // An unquoted tag such as 1.10 is a number to YAML, and would lose its last digit: its text as it was written counts.
  const text = typeof value === "number" && isScalar(node) ? (node.source ?? String(value)) : value;
  if (typeof text === "string" && text !== "" && form.pattern.test(text)) return text;
  source.report(path, form.expected);
  return undefined;
}

function readSettings(reader: Reader, node: Node | null, path: string): Readonly<Record<string, string>> {
  const { source } = reader;
  if (!isMap(node)) {
    source.report(path, "a mapping of settings");
    return {};
  }
  const names = SETTINGS.map(({ name }) => name as string);
  const settings: Record<string, string> = {};
  for (const { name, at, item } of entriesOf(reader, node, path)) {
    const where = memberPath(path, name);
    const value = reader.tree.resolve(item) ?? null;
    source.note(where, startOf(value, at), describe(value));
    const instead = MANAGED_SETTINGS[name];
    if (!names.includes(name)) {
      source.reportAt(at, where, "a setting of `sallyport serve`", quote(name), suggest(name, names));
    } else if (instead !== undefined) {
      source.reportAt(at, where, `no setting that the injector makes (${instead})`, quote(name));
    } else if (!isScalar(value) || value.value === null) source.report(where, "a single value");
    else settings[name] = typeof value.value === "string" ? value.value : (value.source ?? String(value.value));
  }
  return settings;
}

function readResources(reader: Reader, node: Node | null, path: string): JsonObject {
  const { source } = reader;
  if (!isMap(node)) {
    source.report(path, "a mapping");
    return {};
  }
  const read: Record<string, JsonObject> = {};
  for (const { name, at, item } of entriesOf(reader, node, path)) {
    const where = memberPath(path, name);
    const amounts = reader.tree.resolve(item) ?? null;
    source.note(where, startOf(amounts, at), describe(amounts));
    if (name !== "requests" && name !== "limits") {
      source.reportAt(at, where, "requests or limits", quote(name), suggest(name, ["requests", "limits"]));
    } else if (!isMap(amounts)) source.report(where, "a mapping of quantities");
    else {
      const quantities: Record<string, string> = {};
      for (const amount of entriesOf(reader, amounts, where)) {
        const amountAt = memberPath(where, amount.name);
        const value = reader.tree.resolve(amount.item) ?? null;
        source.note(amountAt, startOf(value, amount.at), describe(value));
        quantities[amount.name] = textOf(source, value, amountAt, QUANTITY) ?? "";
      }
      read[name] = quantities;
    }
  }
  return read;
}

const VARIABLE = /^[-._a-zA-Z][-._a-zA-Z0-9]{0,252}$/;

function readEnvironment(reader: Reader, node: Node | null, path: string): readonly JsonObject[] {
  const { source } = reader;
  const seen = new Set<string>();
  return itemsOf(source, node, path).flatMap((item, index) => {
    const at = `${path}[${index}]`;
    const entry = reader.tree.resolve(item) ?? null;
    source.note(at, startOf(entry, 0), kindOf(entry));
    if (!isMap(entry)) {
      source.report(at, "a mapping with name and value or valueFrom");
      return [];
    }
    const variable: Record<string, Json> = {};
    for (const member of entriesOf(reader, entry, at)) {
      const memberAt = memberPath(at, member.name);
      const value = reader.tree.resolve(member.item) ?? null;
      source.note(memberAt, startOf(value, member.at), kindOf(value));
      if (!["name", "value", "valueFrom"].includes(member.name)) {
        source.reportAt(member.at, memberAt, "name, value or valueFrom", quote(member.name));
      } else variable[member.name] = toJson(reader, value);
    }
    const { name } = variable;
    if (typeof name !== "string" || !VARIABLE.test(name)) source.report(memberPath(at, "name"), "a variable's name");
    else if (OWN_ENVIRONMENT.includes(name)) {
      source.report(memberPath(at, "name"), "no variable that the injector sets", quote(name));
    } else if (seen.has(name)) source.report(memberPath(at, "name"), "each variable once", `a second ${quote(name)}`);
    else seen.add(name);
    if (variable.value !== undefined && typeof variable.value !== "string") {
      source.report(memberPath(at, "value"), "a text (in quotes)");
    }
    if (variable.value !== undefined && variable.valueFrom !== undefined) {
      source.report(at, "either value or valueFrom", "both");
    }
    return [variable];
  });
}

/** A part that is passed on as it is. */
function toJson(reader: Reader, given: Node | null): Json {
  const node = reader.tree.resolve(given) ?? null;
  if (isMap(node)) {
    return Object.fromEntries(
      (node.items as Pair<Node, Node | null>[]).map(({ key, value }) => [
        String(isScalar(key) ? key.value : ""),
        toJson(reader, value),
      ]),
    );
  }
  if (isSeq(node)) return node.items.map((item) => toJson(reader, item as Node | null));
  const value: unknown = isScalar(node) ? node.value : null;
  return typeof value === "string" || typeof value === "number" || typeof value === "boolean" ? value : null;
}

/** What keys mean beside each other. */
function checkTogether(value: Read, source: Source): void {
  const image = value.image as Read | undefined;
  if (image?.tag === "" && image.digest === "" && !source.isFaulty("image")) {
    source.report("image", "a tag or a digest", "neither");
  }
  const policy = value.policy as Read | undefined;
  const given = Object.entries(policy ?? {}).flatMap(([name, member]) => (member === undefined ? [] : [name]));
  if (given.length > 1) source.report("policy", "exactly one source", given.join(" and "));
  const control = value.control as Read | undefined;
  if (policy?.control !== undefined && control !== undefined && !source.isFaulty("control")) {
    if (control.address === "")
      source.report("control.address", "https://HOST:9292, since policy is control", "nothing");
    if (control.bundleKeys === "") {
      source.report("control.bundleKeys", "the public keys, since only signed policy is believed", "nothing");
    }
  }
  if (control?.ca !== "" && control?.caConfigMap !== "" && control !== undefined && !source.isFaulty("control")) {
    source.report("control.caConfigMap", "either ca or caConfigMap", "both");
  }
  const envoy = value.envoy as Read | undefined;
  if (envoy === undefined || envoy.mode !== "sidecar") return;
  const ports = new Map<unknown, string>([[value.healthPort, "healthPort"]]);
  for (const name of ["inboundPort", "adminPort", "healthPort", "appPort"]) {
    const port = envoy[name];
    const other = port === undefined ? undefined : ports.get(port);
    const path = `envoy.${name}`;
    if (other !== undefined) source.report(path, `another port than ${other}`, String(port));
    else ports.set(port, path);
  }
}

function configOf(value: Read): InjectorConfig {
  const { apiVersion: _, kind: __, policy, runAsUser, ...rest } = value;
  const config = {
    ...rest,
    runAsUser: runAsUser === 0 ? undefined : runAsUser,
    policy: policyOf(policy as Read),
  };
  const state = rest.state as Read;
  // Every key was read by its field, whose kind is the one that the type states.
  return {
    ...config,
    state: state.kind === "none" ? { kind: "none" } : state,
    hash: digestOf(canonicalText(config)),
  } as unknown as InjectorConfig;
}

function policyOf({ configMap, secret, control }: Read): PolicySource {
  if (control !== undefined) return { kind: "control" };
  if (configMap !== undefined) return { kind: "configMap", ...(configMap as { name: string; key: string }) };
  if (secret !== undefined) return { kind: "secret", ...(secret as { name: string; key: string }) };
  return { kind: "shipped" };
}

/** Lets `serve` itself judge what it would be given, so that a pod never fails on what could be known here. */
function checkSettings(config: InjectorConfig, source: Source): void {
  const places = new Map<string, string>();
  const settings = new Map(
    Object.entries(config.settings).map(([name, text]) => {
      const path = memberPath("settings", name);
      places.set(path, path);
      return [name, { text, where: path }];
    }),
  );
  const environment = Object.fromEntries(
    config.extraEnv.flatMap(({ name, value }, index) => {
      if (!String(name).startsWith("SALLYPORT_")) return [];
      places.set(String(name), `extraEnv[${index}].name`);
      return typeof value === "string" ? [[String(name), value]] : [];
    }),
  );
  // Labels are ours and theirs together; of all others, what the file says is judged at its place there.
  const made = Object.entries(serveSettings(config)).filter(([name]) => name === "labels" || !settings.has(name));
  settings.delete("labels");
  for (const [name] of made) places.set(`--${name}`, memberPath("settings", name));
  const read = readConfig({ flags: Object.fromEntries(made), environment, file: { settings, problems: [] } });
  if (read.ok) return;
  for (const problem of read.problems) {
    const [about = "", ...words] = problem.split(": ");
    const text = words.join(": ");
    const found = /^expected (.*), got (.*)$/s.exec(text);
    const place = places.get(about) ?? "settings";
    if (found !== null) source.report(place, found[1]!, found[2]!);
    else source.report(place, "what `sallyport serve` takes", text);
  }
}

interface Member {
  readonly name: string;
  /** Where the name stands. */
  readonly at: number;
  readonly item: Node | null;
}

/** The members of a mapping; keys that are no texts or come twice are reported and left out. */
function entriesOf({ source, tree }: Reader, node: YAMLMap, path: string): readonly Member[] {
  const seen = new Set<string>();
  return (node.items as Pair<Node, Node | null>[]).flatMap(({ key, value }) => {
    const resolved = tree.resolve(key) ?? null;
    const at = startOf(resolved, startOf(node, 0));
    const name = isScalar(resolved) && typeof resolved.value === "string" ? resolved.value : undefined;
    if (name === undefined || name === "__proto__") {
      source.reportAt(at, path, "keys that are names", kindOf(resolved));
      return [];
    }
    if (seen.has(name)) {
      source.reportAt(at, memberPath(path, name), "each key once", `a second ${quote(name)}`);
      return [];
    }
    seen.add(name);
    return [{ name, at, item: value }];
  });
}

function itemsOf(source: Source, node: Node | null, path: string): readonly (Node | null)[] {
  if (isSeq(node)) return node.items as (Node | null)[];
  source.report(path, "a list");
  return [];
}

function startOf(node: Node | null, otherwise: number): number {
  return node?.range?.[0] ?? otherwise;
}

function kindOf(node: Node | null): string {
  if (isMap(node)) return "a mapping";
  if (isSeq(node)) return "a list";
  if (!isScalar(node) || node.value === null) return "nothing";
  return typeof node.value === "string" ? "a text" : `a ${typeof node.value}`;
}

function describe(node: Node | null): string {
  if (!isScalar(node) || node.value === null) return kindOf(node);
  return typeof node.value === "string" ? quote(node.value) : String(node.source);
}
