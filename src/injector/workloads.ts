/** Where the pods of a workload are described. */

import { isObject, type Json, type JsonObject } from "./json.ts";

/** Path to the pod (`metadata` and `spec`) by kind; a Pod is one itself. */
export const WORKLOAD_KINDS: Readonly<Record<string, readonly string[]>> = {
  Pod: [],
  Deployment: ["spec", "template"],
  ReplicaSet: ["spec", "template"],
  StatefulSet: ["spec", "template"],
  DaemonSet: ["spec", "template"],
  ReplicationController: ["spec", "template"],
  Job: ["spec", "template"],
  CronJob: ["spec", "jobTemplate", "spec", "template"],
};

/** API groups whose kinds these are; other groups may have kinds of the same names. */
const GROUPS = ["v1", "apps/v1", "batch/v1"];

export interface Template {
  /** From the object to the pod. */
  readonly path: readonly string[];
  readonly pod: JsonObject;
}

/** Whether an object of a kind that is not known here seems to describe pods, as those of other groups do. */
export function seemsWorkload(object: JsonObject): boolean {
  const { spec } = object;
  const template = isObject(spec) && spec.template !== undefined ? spec.template : object.template;
  return isObject(template) && isObject(template.spec) && Array.isArray(template.spec.containers);
}

/** The pod that an object describes; `undefined` when it describes none. */
export function templateOf(object: JsonObject): Template | undefined {
  const { apiVersion, kind } = object;
  if (typeof kind !== "string" || !Object.hasOwn(WORKLOAD_KINDS, kind)) return undefined;
  if (typeof apiVersion !== "string" || !GROUPS.includes(apiVersion)) return undefined;
  const path = WORKLOAD_KINDS[kind]!;
  const pod = path.reduce<Json | undefined>((value, name) => (isObject(value) ? value[name] : undefined), object);
  return isObject(pod) ? { path, pod } : undefined;
}
