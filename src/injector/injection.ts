/** What becomes of a pod: the patch that adds Sallyport, or why there is none. */

import type { InjectorConfig } from "./config.ts";
import type { JsonObject, JsonPatchOperation } from "./json.ts";

export type { InjectorConfig } from "./config.ts";
export type { Json, JsonObject, JsonPatchOperation } from "./json.ts";

/** What becomes of a pod. Texts are for the people who made it; they never hold a secret. */
export type Injection =
  /** The patch is never empty. */
  | { readonly kind: "injected"; readonly patch: readonly JsonPatchOperation[]; readonly warnings: readonly string[] }
  /** Opted out, injected already, or nothing calls it. */
  | { readonly kind: "unchanged"; readonly why: string }
  /** It cannot be guarded as it is, and running it unguarded would not be what was asked for. */
  | { readonly kind: "refused"; readonly why: string };

/** What the injector must know besides the pod. */
export interface InjectionContext {
  /** Namespace of the pod; admission tells it apart from the pod, whose own may be left out. */
  readonly namespace: string;
  /** Whether the cluster has native sidecars: Kubernetes 1.29 or later. */
  readonly nativeSidecars: boolean;
}

/**
 * Reads the text of an `InjectorConfig`.
 * @throws {OperatingError} ERR_CONFIG_INVALID with every problem at once, each with its line and column
 */
export declare function parseInjectorConfig(text: string, where: string): InjectorConfig;

/**
 * Says what becomes of a pod. Never throws on what a pod may hold.
 * @param pod `metadata` and `spec`; a template of a workload is one
 */
export declare function injectPod(pod: JsonObject, config: InjectorConfig, context: InjectionContext): Injection;
