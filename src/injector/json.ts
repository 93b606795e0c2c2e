/** JSON as the Kubernetes API speaks it, and RFC 6902 patches of it. */

export type Json = string | number | boolean | null | readonly Json[] | JsonObject;

export interface JsonObject {
  readonly [key: string]: Json;
}

/** One operation of an RFC 6902 patch. */
export type JsonPatchOperation =
  | { readonly op: "add" | "replace" | "test"; readonly path: string; readonly value: Json }
  | { readonly op: "remove"; readonly path: string };

/** Whether a value is a JSON object, neither a list nor `null`. */
export function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The objects of a list; whatever else stands there is left out, and no list counts as an empty one. */
export function objectsOf(value: Json | undefined): readonly JsonObject[] {
  return Array.isArray(value) ? (value as readonly Json[]).filter(isObject) : [];
}

/** The member that is an object; an empty one where it is not there or something else. */
export function objectAt(parent: JsonObject, name: string): JsonObject {
  const value = parent[name];
  return isObject(value) ? value : {};
}

/** The member that is a text; `undefined` where it is not there or something else. */
export function textAt(parent: JsonObject, name: string): string | undefined {
  const value = parent[name];
  return typeof value === "string" ? value : undefined;
}

/** Whether two values are the same JSON; the order of an object's members does not count. */
export function sameJson(left: Json | undefined, right: Json | undefined): boolean {
  if (left === right) return true;
  if (Array.isArray(left) || Array.isArray(right)) {
    if (!Array.isArray(left) || !Array.isArray(right) || left.length !== right.length) return false;
    return left.every((item, index) => sameJson(item as Json, right[index] as Json));
  }
  if (!isObject(left) || !isObject(right)) return false;
  const names = Object.keys(left);
  return names.length === Object.keys(right).length && names.every((name) => sameJson(left[name], right[name]));
}

/** Most levels of lists and objects within each other: pods have some ten, and what is deeper overflows the stack. */
export const DEPTH_MAX = 256;

/** Whether lists and objects stand deeper within each other than that; also of a value that holds itself. */
export function isDeeper(value: Json, depthMax: number): boolean {
  let level: readonly Json[] = [value];
  for (let depth = 0; ; depth++) {
    const seen = new Set<Json>();
    for (const one of level) {
      if (typeof one !== "object" || one === null) continue;
      for (const child of Object.values(one)) if (typeof child === "object" && child !== null) seen.add(child);
    }
    if (seen.size === 0) return false;
    if (depth + 1 >= depthMax) return true;
    level = [...seen];
  }
}
