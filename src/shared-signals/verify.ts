/** Verifies a security event token: type, algorithm, claims, signature. */

import { compactVerify, decodeJwt, decodeProtectedHeader, errors } from "jose";
import { type ClaimsWanted, isSetType, type ParsedSet, parseClaims, type SetErrorCode, type SetFault } from "./set.ts";
import type { Keys, SourceKeys } from "./source-keys.ts";

/** Longer tokens are refused unread. */
export const SET_CHARS_MAX = 64 * 1024;
/** Keys tried for a token that names none: every try costs a verification. */
const KEYS_TRIED_MAX = 8;

export type Verified =
  | { readonly kind: "good"; readonly set: ParsedSet }
  /** Refused for good. */
  | { readonly kind: "refused"; readonly fault: SetFault }
  /** It cannot be told now: the transmitter is to send it again. */
  | { readonly kind: "not_now"; readonly why: string };

/** Never rejects. What costs little is looked at first; nothing is believed before the signature is. */
export async function verifySet(
  token: string,
  keys: SourceKeys,
  wanted: ClaimsWanted & { readonly algorithms: readonly string[] },
): Promise<Verified> {
  if (token.length > SET_CHARS_MAX) return refuse("invalid_request", `longer than ${SET_CHARS_MAX} characters`);
  let header: { readonly typ?: unknown; readonly alg?: unknown };
  let claims: unknown;
  try {
    header = decodeProtectedHeader(token);
    claims = decodeJwt(token);
  } catch {
    return refuse("invalid_request", "not a signed JWT in its compact form"); // fails closed
  }
  if (!isSetType(header.typ)) return refuse("invalid_request", "expected the type secevent+jwt");
  if (typeof header.alg !== "string" || !wanted.algorithms.includes(header.alg)) {
    return refuse("invalid_key", "signed with an algorithm that is not accepted");
  }
  const parsed = parseClaims(claims, wanted);
  if (!parsed.ok) return { kind: "refused", fault: parsed.fault };
  const held = await keys.get();
  if (held === undefined) return { kind: "not_now", why: "the transmitter's keys are not known yet" };
  const first = await checkSignature(token, held, wanted.algorithms);
  if (first === "good") return { kind: "good", set: parsed.set };
  if (first !== "unknown_key") return refuse("invalid_key", first);
  const fresh = await keys.refetch();
  const again = await checkSignature(token, (await keys.get()) ?? held, wanted.algorithms);
  if (again === "good") return { kind: "good", set: parsed.set };
  if (again !== "unknown_key") return refuse("invalid_key", again);
  // A key that was made a moment ago may not have been published where we looked.
  if (!fresh) return { kind: "not_now", why: "signed with a key that is not known yet" };
  return refuse("invalid_key", "signed with a key that the transmitter does not publish");
}

type Signature = "good" | "unknown_key" | "the signature does not verify" | "signed in a way that is not accepted";

async function checkSignature(token: string, keys: Keys, algorithms: readonly string[]): Promise<Signature> {
  const options = { algorithms: [...algorithms] };
  try {
    await compactVerify(token, keys, options);
    return "good";
  } catch (error) {
    if (error instanceof errors.JWKSMultipleMatchingKeys) return tryEach(token, error, options);
    return signatureOf(error); // fails closed
  }
}

/** A token need not name its key (RFC 7515, section 4.1.4): then any that fits may have signed it. */
async function tryEach(
  token: string,
  keys: errors.JWKSMultipleMatchingKeys,
  options: { readonly algorithms: string[] },
): Promise<Signature> {
  let tried = 0;
  for await (const key of keys) {
    if (++tried > KEYS_TRIED_MAX) return "unknown_key";
    try {
      await compactVerify(token, key, options);
      return "good";
    } catch (error) {
      const found = signatureOf(error); // the next key may be the one
      if (found !== "the signature does not verify") return found;
    }
  }
  return "the signature does not verify";
}

function signatureOf(error: unknown): Signature {
  if (error instanceof errors.JWSSignatureVerificationFailed) return "the signature does not verify";
  if (error instanceof errors.JWKSNoMatchingKey) return "unknown_key";
  return "signed in a way that is not accepted";
}

function refuse(err: SetErrorCode, description: string): Verified {
  return { kind: "refused", fault: { err, description } };
}
