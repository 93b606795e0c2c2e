/** The injector as its callers see it: a pod and a configuration in, a patch or a reason out. */

export type { InjectorConfig } from "./config.ts";
export { type Injection, type InjectionContext, injectPod } from "./inject-pod.ts";
export type { Json, JsonObject, JsonPatchOperation } from "./json.ts";
export { parseInjectorConfig } from "./parse-config.ts";
export { removeInjection } from "./remove.ts";
export { templateOf, WORKLOAD_KINDS } from "./workloads.ts";
