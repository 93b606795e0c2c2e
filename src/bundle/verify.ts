/** Stand-in. */
import type { BundleFacts, Trust } from "../model/bundle.ts";
export interface Verified {
  readonly manifest: { readonly policy: string };
  readonly facts: BundleFacts;
  readonly files: ReadonlyMap<string, Uint8Array>;
  readonly trust: Trust;
  readonly warnings: readonly string[];
}
export function verifyBundle(_bundle: never, _trust: Trust, _nowMs: number, _options: object): Promise<Verified> {
  throw new RangeError("never reached");
}
