/** What is remembered of trust, as text; reading it back, which takes a schema, is in `trust.ts`. */

import { createHash } from "node:crypto";
import type { Trust, TrustRoot } from "../model/bundle.ts";

/** The text of a state file. */
export function writeTrust({ root, accepted, anchor }: Trust): string {
  return `${JSON.stringify({ root, accepted, anchor: anchor ?? rootDigest(root) }, undefined, 2)}\n`;
}

/** Names a root by what counts of it: version, threshold and keys; hex. */
export function rootDigest({ version, threshold, keys, restartsRevisions }: TrustRoot): string {
  const kids = keys.map(({ kid }) => kid).sort();
  return createHash("sha256")
    .update(JSON.stringify([version, threshold, restartsRevisions === true, kids]))
    .digest("hex");
}
