/** Loads policy from wherever it is offered. */

import { type LoadOptions, type LoadResult, loadBytes, loadPolicy } from "./load.ts";

export type PolicyOrigin =
  | { readonly kind: "path"; readonly path: string }
  | { readonly kind: "bytes"; readonly label: string; readonly bytes: Uint8Array };

export class PolicyLoader {
  load(origin: PolicyOrigin, options: LoadOptions = {}): Promise<LoadResult> {
    return origin.kind === "path" ? loadPolicy(origin.path, options) : loadBytes(origin.label, origin.bytes, options);
  }

  async close(): Promise<void> {}
}
