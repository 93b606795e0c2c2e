/** Checks texts whose form the schema names: globs, ranges, URLs and key sets. */

import { Form } from "../gen/sallyport/policy/v1/options_pb.ts";
import { readRange } from "./address.ts";
import { GLOB_EXPECTED, isGlob } from "./globs.ts";
import { quote } from "./problem.ts";

/** What is wrong with a text: what was wanted, and what was found instead. */
export interface Fault {
  readonly expected: string;
  readonly got: string;
}

/** What is wrong with the text, or `undefined`. Conditions are checked together with their rules: see `cross-check.ts`. */
export function checkForm(form: Form, text: string): Fault | undefined {
  switch (form) {
    case Form.GLOB:
      return isGlob(text) ? undefined : { expected: GLOB_EXPECTED, got: quote(text) };
    case Form.RANGE:
      return readRange(text) === undefined ? { expected: "an address or a CIDR range", got: quote(text) } : undefined;
    case Form.URL:
      return checkUrl(text);
    case Form.JWKS:
      return checkKeySet(text);
    default:
      return undefined;
  }
}

function checkUrl(text: string): Fault | undefined {
  const expected = "an https URL (or http to loopback) without user information";
  if (!URL.canParse(text)) return { expected, got: "a text that is no URL" };
  const url = new URL(text);
  if (url.username !== "" || url.password !== "") return { expected, got: "a URL with user information" };
  const loopback = /^(?:localhost|127(?:\.\d+){3}|\[::1\])$/.test(url.hostname);
  if (url.protocol === "https:" || (url.protocol === "http:" && loopback)) return undefined;
  return { expected, got: quote(`${url.protocol}//${url.host}`) };
}

/** Members of a JWK that are private (RFC 7518, section 6). */
const PRIVATE_MEMBERS = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
const KEYS_MAX = 1_000;

/** What is wrong with a JSON Web Key Set; its texts repeat nothing of the keys. */
export function checkKeySet(text: string): Fault | undefined {
  const expected = `a JSON Web Key Set of 1..${KEYS_MAX} public keys`;
  let set: unknown;
  try {
    set = JSON.parse(text);
  } catch {
    // Fails closed: the parser's own message would repeat parts of the text.
    return { expected, got: "a text that is not JSON" };
  }
  const keys = isRecord(set) ? set.keys : undefined;
  if (!Array.isArray(keys)) return { expected, got: "JSON without a list of `keys`" };
  if (keys.length === 0 || keys.length > KEYS_MAX) return { expected, got: `${keys.length} keys` };
  for (const [index, key] of keys.entries()) {
    if (!isRecord(key) || typeof key.kty !== "string") return { expected, got: `keys[${index}] without a \`kty\`` };
    if (key.kty === "oct") return { expected, got: `a symmetric key in keys[${index}]` };
    if (PRIVATE_MEMBERS.some((member) => member in key)) return { expected, got: `a private key in keys[${index}]` };
  }
  return undefined;
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
