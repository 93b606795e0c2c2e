/** Finds the RFC 6902 patch between two documents, and applies one. */

import { isObject, type Json, type JsonObject, type JsonPatchOperation, sameJson } from "./json.ts";

/**
 * The operations that make `after` of `before`, in order.
 * Entries of lists are told apart by their `name` where all have one, so that a patch adds and removes entries and leaves
 * the others alone; other lists are compared from both ends.
 */
export function patchBetween(before: JsonObject, after: JsonObject): readonly JsonPatchOperation[] {
  const operations: JsonPatchOperation[] = [];
  compareObjects(before, after, "", operations);
  return operations;
}

function compare(before: Json, after: Json, path: string, operations: JsonPatchOperation[]): void {
  if (sameJson(before, after)) return;
  if (isObject(before) && isObject(after)) compareObjects(before, after, path, operations);
  else if (Array.isArray(before) && Array.isArray(after)) {
    compareLists(before as readonly Json[], after as readonly Json[], path, operations);
  } else operations.push({ op: "replace", path, value: after });
}

function compareObjects(before: JsonObject, after: JsonObject, path: string, operations: JsonPatchOperation[]): void {
  for (const name of Object.keys(before)) {
    if (!Object.hasOwn(after, name)) operations.push({ op: "remove", path: `${path}/${escaped(name)}` });
  }
  for (const [name, value] of Object.entries(after)) {
    const at = `${path}/${escaped(name)}`;
    if (Object.hasOwn(before, name)) compare(before[name]!, value, at, operations);
    else operations.push({ op: "add", path: at, value });
  }
}

function compareLists(
  before: readonly Json[],
  after: readonly Json[],
  path: string,
  operations: JsonPatchOperation[],
): void {
  const keyOf = keysOf(before, after);
  const kept = new Set(after.map(keyOf));
  const list = [...before];
  for (let index = list.length - 1; index >= 0; index--) {
    if (kept.has(keyOf(list[index]!))) continue;
    operations.push({ op: "remove", path: `${path}/${index}` });
    list.splice(index, 1);
  }
  const known = new Set(list.map(keyOf));
  if (
    !sameJson(
      list.map(keyOf),
      after.map(keyOf).filter((key) => known.has(key)),
    )
  ) {
    // Entries changed places, or stand there twice: no list of additions tells that better than the list itself.
    operations.splice(operations.length - (before.length - list.length));
    operations.push({ op: "replace", path, value: after });
    return;
  }
  for (const [index, value] of after.entries()) {
    if (known.has(keyOf(value))) compare(list[index]!, value, `${path}/${index}`, operations);
    else {
      operations.push({ op: "add", path: `${path}/${index}`, value });
      list.splice(index, 0, value);
    }
  }
}

/** What an entry is recognised by: its name where all entries have one of their own, else all of it. */
function keysOf(before: readonly Json[], after: readonly Json[]): (entry: Json) => string {
  const nameOf = (entry: Json): Json | undefined => (isObject(entry) ? entry.name : undefined);
  for (const list of [before, after]) {
    const names = list.map(nameOf);
    if (names.some((name) => typeof name !== "string") || new Set(names).size < names.length) {
      return (entry) => JSON.stringify(entry);
    }
  }
  return (entry) => String(nameOf(entry));
}

function escaped(name: string): string {
  return name.replaceAll("~", "~0").replaceAll("/", "~1");
}

/** The parts of a JSON pointer (RFC 6901). */
export function pointerParts(pointer: string): readonly string[] {
  return pointer
    .split("/")
    .slice(1)
    .map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"));
}

/**
 * The document with the operations done; the one that was given stays as it is.
 * @throws {RangeError} when an operation does not fit the document: a bug in whoever made it
 */
export function applyPatch(document: JsonObject, operations: readonly JsonPatchOperation[]): JsonObject {
  return operations.reduce<Json>(
    (value, operation) => applied(value, pointerParts(operation.path), operation),
    document,
  ) as JsonObject;
}

function applied(target: Json, parts: readonly string[], operation: JsonPatchOperation): Json {
  const [part, ...rest] = parts;
  if (part === undefined) throw new RangeError(`${operation.path}: the whole document is never replaced`);
  if (Array.isArray(target)) {
    const list = [...(target as readonly Json[])];
    const index = part === "-" ? list.length : Number(part);
    const isAdded = rest.length === 0 && operation.op === "add";
    if (!Number.isInteger(index) || index < 0 || index >= list.length + (isAdded ? 1 : 0)) unfit(operation);
    if (rest.length > 0) list[index] = applied(list[index]!, rest, operation);
    else if (operation.op === "add") list.splice(index, 0, operation.value);
    else if (operation.op === "remove") list.splice(index, 1);
    else list[index] = settled(list[index]!, operation);
    return list;
  }
  if (!isObject(target)) unfit(operation);
  if (operation.op !== "add" || rest.length > 0) if (!Object.hasOwn(target, part)) unfit(operation);
  if (rest.length > 0) return { ...target, [part]: applied(target[part]!, rest, operation) };
  if (operation.op === "remove") {
    const { [part]: _, ...others } = target;
    return others;
  }
  return { ...target, [part]: operation.op === "add" ? operation.value : settled(target[part]!, operation) };
}

function settled(value: Json, operation: JsonPatchOperation & { readonly op: "add" | "replace" | "test" }): Json {
  if (operation.op === "test" && !sameJson(value, operation.value)) unfit(operation);
  return operation.value;
}

function unfit({ op, path }: JsonPatchOperation): never {
  throw new RangeError(`${op} ${path} does not fit the document`);
}
