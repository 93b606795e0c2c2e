/** Reads an API key: known by its SHA-256, remembered by its keyed hash. */

import { createHash } from "node:crypto";
import type { ApiKeyFacts } from "../model/identity.ts";
import type { Lookup } from "../model/policy.ts";
import { keyedHash } from "./keyed-hash.ts";

/**
 * @param value the header's value, with or without a `Bearer` or `ApiKey` word before it
 * @param known lower-case hex SHA-256 of each key to its id
 */
export function readApiKey(value: string | undefined, known: Lookup<string>, key: Uint8Array): ApiKeyFacts {
  const secret = value?.replace(/^(?:bearer|apikey)\s+/i, "").trim();
  if (secret === undefined || secret === "") return { kind: "absent" };
  const id = `key:${keyedHash(key, secret)}`;
  // The table is asked with a digest: timing tells nothing of the key itself.
  const name = known.get(createHash("sha256").update(secret).digest("hex"));
  return name === undefined ? { kind: "unknown", id } : { kind: "known", id, name };
}
