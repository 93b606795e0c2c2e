/** `Content-Digest` (RFC 9530): ties a body to a signature that covers the field. */

import { createHash, timingSafeEqual } from "node:crypto";
import { bytesItem, parseDictionary, serialiseDictionary } from "./structured-fields.ts";

/** `weak` digests (MD5, SHA-1, CRC and the like) prove nothing and count as none. */
export type DigestJudgement = "matched" | "mismatched" | "weak" | "malformed";

const HASHES: Readonly<Record<string, string>> = { "sha-256": "sha256", "sha-512": "sha512" };

export function contentDigest(body: Uint8Array): string {
  return serialiseDictionary(new Map([["sha-256", bytesItem(createHash("sha256").update(body).digest())]]));
}

/** Every strong digest in the field must match, and at least one must be there. */
export function judgeDigest(field: string, body: Uint8Array): DigestJudgement {
  const digests = parseDictionary(field);
  if (digests === undefined) return "malformed";
  let strong = 0;
  for (const [name, member] of digests) {
    const hash = Object.hasOwn(HASHES, name) ? HASHES[name] : undefined;
    if (hash === undefined) continue;
    if (member.kind !== "item" || member.value.kind !== "bytes") return "malformed";
    strong++;
    const digest = createHash(hash).update(body).digest();
    const claimed = member.value.value;
    if (claimed.length !== digest.length || !timingSafeEqual(claimed, digest)) return "mismatched";
  }
  return strong === 0 ? "weak" : "matched";
}
