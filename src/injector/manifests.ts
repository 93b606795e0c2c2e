/** Changes the pods in the text of manifests, and leaves all other text as it is. */

import { type Document, isCollection, isSeq, LineCounter, parseAllDocuments } from "yaml";
import {
  DEPTH_MAX,
  isDeeper,
  isObject,
  type Json,
  type JsonObject,
  type JsonPatchOperation,
  objectAt,
  sameJson,
  textAt,
} from "./json.ts";
import { KUBERNETES_YAML } from "./kubernetes-yaml.ts";
import { applyPatch, patchBetween, pointerParts } from "./patch.ts";
import { seemsWorkload, templateOf } from "./workloads.ts";

/** Most characters of one text. */
export const MANIFEST_CHARS_MAX = 64 * 1024 * 1024;

/** Problems of one text that are told: the first ones explain the others. */
const PROBLEMS_MAX = 20;

/** Most lists within lists: `List` may hold `List`. */
const LISTS_MAX = 8;

/** What is done to one pod. */
export type Change =
  | { readonly kind: "changed"; readonly pod: JsonObject; readonly warnings: readonly string[] }
  | { readonly kind: "unchanged" | "refused"; readonly why: string };

/** @param namespace of the object that describes the pod; `default` where it names none */
export type ChangePod = (pod: JsonObject, namespace: string) => Change;

/** What was done with one object. */
export interface Told {
  /** Such as `Deployment shop/orders`. */
  readonly object: string;
  readonly kind: Change["kind"];
  /** Why it is unchanged or refused; empty where it was changed. */
  readonly why: string;
  readonly warnings: readonly string[];
}

export type Changed =
  | { readonly ok: true; readonly text: string; readonly told: readonly Told[] }
  /** Not readable: what is wrong, with line and column. */
  | { readonly ok: false; readonly problems: readonly string[] };

/**
 * Changes every pod of a text.
 *
 * @param text YAML, several documents or one, or JSON; JSON stays JSON
 * @param where its name, for messages
 */
export function changeManifests(text: string, where: string, change: ChangePod): Changed {
  if (text.length > MANIFEST_CHARS_MAX) {
    return { ok: false, problems: [`${where}: expected at most ${MANIFEST_CHARS_MAX} characters, got ${text.length}`] };
  }
  const json = parseJson(text);
  if (json !== undefined) {
    return isDeeper(json, DEPTH_MAX) ? { ok: false, problems: [tooDeep(where)] } : changeJson(text, json, change);
  }
  const lines = new LineCounter();
  const documents = parseAllDocuments(text, { ...KUBERNETES_YAML, lineCounter: lines });
  const told: Told[] = [];
  const problems: string[] = [];
  const parts: string[] = [];
  let from = 0;
  for (const document of Array.isArray(documents) ? (documents as Document.Parsed[]) : []) {
    const source = text.slice(from, document.range[2]);
    from = document.range[2];
    for (const error of document.errors) {
      const { line, col } = lines.linePos(error.pos[0]);
      problems.push(`${where}:${line}:${col}: expected valid YAML, got what it may not hold (${error.code})`);
    }
    if (document.errors.length > 0) continue;
    const read = plainOf(document);
    if (read === undefined) {
      const { line, col } = lines.linePos(document.range[0]);
      problems.push(`${where}:${line}:${col}: expected aliases of what stands there, and few of them`);
      continue;
    }
    if (isDeeper(read, DEPTH_MAX)) {
      const { line, col } = lines.linePos(document.range[0]);
      problems.push(tooDeep(`${where}:${line}:${col}`));
      continue;
    }
    // What an anchor and its aliases stand for is one object until here: changed in one place, it would be in all.
    const value = JSON.parse(JSON.stringify(read)) as Json;
    const after = changeValue(value, change, told, 0);
    parts.push(
      sameJson(after, value) ? source : withChange(document, source, value as JsonObject, after as JsonObject),
    );
  }
  parts.push(text.slice(from));
  return problems.length > 0 ? { ok: false, problems: bounded(problems) } : { ok: true, text: parts.join(""), told };
}

function bounded(problems: readonly string[]): readonly string[] {
  const more = problems.length - PROBLEMS_MAX;
  return more <= 0 ? problems : [...problems.slice(0, PROBLEMS_MAX), `and ${more} more`];
}

function tooDeep(where: string): string {
  return `${where}: expected at most ${DEPTH_MAX} levels of lists and mappings, got more`;
}

/** @returns `undefined` when an alias stands for nothing, or all of them for too much */
function plainOf(document: Document.Parsed): Json | undefined {
  try {
    return document.toJS() as Json;
  } catch {
    return undefined; // reported by the caller: nothing is changed in what cannot be read
  }
}

function parseJson(text: string): Json | undefined {
  if (!/^\s*[{[]/.test(text)) return undefined;
  try {
    return JSON.parse(text) as Json;
  } catch {
    return undefined; // YAML may begin with a bracket as well
  }
}

function changeJson(text: string, value: Json, change: ChangePod): Changed {
  const told: Told[] = [];
  const after = changeValue(value, change, told, 0);
  if (sameJson(after, value)) return { ok: true, text, told };
  const indent = /^[{[]\s*?\n( +)/.exec(text.trimStart())?.[1]?.length ?? 0;
  return { ok: true, text: `${JSON.stringify(after, undefined, indent)}\n`, told };
}

/** An object, or a list of them. */
function changeValue(value: Json, change: ChangePod, told: Told[], depth: number): Json {
  if (!isObject(value)) return value;
  const { items } = value;
  if (textAt(value, "kind")?.endsWith("List") === true && Array.isArray(items) && depth < LISTS_MAX) {
    return { ...value, items: (items as readonly Json[]).map((item) => changeValue(item, change, told, depth + 1)) };
  }
  const metadata = objectAt(value, "metadata");
  const namespace = textAt(metadata, "namespace");
  const name = textAt(metadata, "name") ?? textAt(metadata, "generateName") ?? "";
  const object =
    `${textAt(value, "kind") ?? "object"} ${namespace === undefined ? "" : `${namespace}/`}${name}`.trimEnd();
  const template = templateOf(value);
  if (template === undefined) {
    const why = seemsWorkload(value)
      ? "its kind is none that is known here, though it seems to describe pods: leave those to the webhook"
      : "it describes no pod";
    told.push({ object, kind: "unchanged", why, warnings: [] });
    return value;
  }
  const result = change(template.pod, namespace ?? "default");
  if (result.kind !== "changed") {
    told.push({ object, kind: result.kind, why: result.why, warnings: [] });
    return value;
  }
  told.push({ object, kind: "changed", why: "", warnings: result.warnings });
  return withPod(value, template.path, result.pod);
}

function withPod(value: JsonObject, path: readonly string[], pod: JsonObject): JsonObject {
  const [name, ...rest] = path;
  return name === undefined ? pod : { ...value, [name]: withPod(objectAt(value, name), rest, pod) };
}

/** Makes the change in the document's own nodes, so that its comments and its form stay. */
function withChange(document: Document.Parsed, source: string, before: JsonObject, after: JsonObject): string {
  const form = formOf(source);
  // Line breaks within values are the same value either way: what is written may break as the rest of the text does.
  const written = (): string => {
    const text = document.toString(form);
    return isBrokenByCrLf(source) ? text.replaceAll("\n", "\r\n") : text;
  };
  const operations = patchBetween(before, after);
  if (!sameJson(applyPatch(before, operations), after)) throw new RangeError("the patch does not make the change");
  if (editInPlace(document, operations) && sameJson(plainOf(document), after)) return written();
  // Aliases and merged mappings stand for several places: changed in one, they are written out. Comments are lost then.
  document.contents = document.createNode(after, { aliasDuplicateObjects: false }) as typeof document.contents;
  return written();
}

/** Whether every line ends as on Windows. */
function isBrokenByCrLf(source: string): boolean {
  return source.includes("\r\n") && !/(?:^|[^\r])\n/.test(source);
}

function editInPlace(document: Document.Parsed, operations: readonly JsonPatchOperation[]): boolean {
  try {
    for (const operation of operations) {
      const path = pointerParts(operation.path);
      const parent = document.getIn(path.slice(0, -1), true);
      const last = path.at(-1)!;
      if (!isCollection(parent)) return false;
      const isList = isSeq(parent);
      if (operation.op === "remove") parent.delete(isList ? Number(last) : last);
      else if (operation.op === "add" && isList) {
        const node = document.createNode(operation.value, { aliasDuplicateObjects: false });
        parent.items.splice(Number(last), 0, node as never);
        parent.flow = false;
      } else {
        const node = document.createNode(operation.value, { aliasDuplicateObjects: false });
        parent.set(isList ? Number(last) : last, node);
        parent.flow = parent.flow === true && isSmall(operation.value);
      }
    }
    return true;
  } catch {
    return false; // the caller writes the document anew
  }
}

/** Whether a value reads well on its parent's line. */
function isSmall(value: Json): boolean {
  return !isObject(value) && !Array.isArray(value) && String(value).length < 60;
}

/** How the text was written: kubectl and Helm do not indent lists, other editors do. */
function formOf(given: string) {
  const source = given.replaceAll("\r\n", "\n");
  return {
    lineWidth: 0,
    indentSeq: !/^( *)[^\s#-][^\n]*:[ \t]*\n(?:[ \t]*#[^\n]*\n)*\1- /m.test(source),
    flowCollectionPadding: !/[:-] [{[][^\s}\]]/.test(source),
  };
}
