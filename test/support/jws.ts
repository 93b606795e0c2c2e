/** Verifies a bare compact JWS with the very parts that proofs are verified with, for vectors that are no proofs. */

import { decodeBase64url } from "../../src/challenge/base64url.ts";
import { fits, JWS_ALGORITHMS, parseJwk, verifyJws } from "../../src/challenge/proof-key.ts";

export function jwsVerdict(text: unknown, jwk: unknown): boolean {
  if (typeof text !== "string") return false;
  const parts = text.split(".");
  if (parts.length !== 3) return false;
  const bytes = parts.map(decodeBase64url);
  if (bytes.some((part) => part === undefined)) return false;
  let header: { alg?: unknown; crit?: unknown };
  try {
    header = JSON.parse(String(bytes[0])) as typeof header;
  } catch {
    return false;
  }
  const algorithm = JWS_ALGORITHMS.find((candidate) => candidate === header.alg);
  const key = parseJwk(jwk);
  if (algorithm === undefined || header.crit !== undefined || !key.ok || !fits(key.key, algorithm)) return false;
  return verifyJws(algorithm, key.key, Buffer.from(`${parts[0]}.${parts[1]}`), bytes[2] as Buffer);
}
