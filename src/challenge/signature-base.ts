/** What an HTTP message signature signs (RFC 9421, section 2): components of a request, and the base made of them. */

import {
  type InnerList,
  type Item,
  parseDictionary,
  serialiseDictionary,
  serialiseItem,
  serialiseMember,
} from "./structured-fields.ts";
import { normaliseAuthority } from "./target-uri.ts";

/** A request as its sender made it. */
export interface SignedRequest {
  /** As sent: methods are case-sensitive. */
  readonly method: string;
  readonly scheme: string;
  /** Host, with port where one was sent. */
  readonly authority: string;
  /** Path with query, as sent. */
  readonly target: string;
  /** All values of a header, in order, by lower-case name; empty when it was not sent. */
  values(name: string): readonly string[];
}

export type BaseFault =
  /** A component that is unknown, or that makes no sense in a request or behind a proxy. */
  | "component_unsupported"
  /** A covered component that the request does not have. */
  | "component_absent"
  | "component_repeated"
  | "too_long";

export type SignatureBase =
  | { readonly ok: true; readonly base: string }
  | { readonly ok: false; readonly why: BaseFault };

/** Components that one signature may cover. */
export const COMPONENTS_MAX = 64;
/** Covering the same long header many ways must not become a way to burn the verifier. */
const BASE_CHARS_MAX = 128 * 1024;

/** Fields known to be dictionaries: only where the type is known can `sf` mean something. */
const DICTIONARIES = new Set(["content-digest", "repr-digest", "want-content-digest", "signature", "signature-input"]);

/** The base of a signature with these covered components and parameters (RFC 9421, section 2.5). */
export function signatureBase(request: SignedRequest, covered: InnerList): SignatureBase {
  if (covered.items.length > COMPONENTS_MAX) return { ok: false, why: "too_long" };
  const lines = new Map<string, string>();
  let length = 0;
  for (const component of covered.items) {
    const identifier = serialiseItem(component);
    if (lines.has(identifier)) return { ok: false, why: "component_repeated" };
    const value = componentValue(request, component);
    if (!value.ok) return value;
    length += identifier.length + value.value.length + 3;
    if (length > BASE_CHARS_MAX) return { ok: false, why: "too_long" };
    lines.set(identifier, value.value);
  }
  const body = [...lines].map(([identifier, value]) => `${identifier}: ${value}\n`).join("");
  return { ok: true, base: `${body}"@signature-params": ${serialiseMember(covered)}` };
}

type Value = { readonly ok: true; readonly value: string } | { readonly ok: false; readonly why: BaseFault };

const UNSUPPORTED: Value = { ok: false, why: "component_unsupported" };
const ABSENT: Value = { ok: false, why: "component_absent" };

function componentValue(request: SignedRequest, component: Item): Value {
  if (component.value.kind !== "string") return UNSUPPORTED;
  const name = component.value.value;
  if (name.startsWith("@")) return derivedValue(request, name, component);
  return fieldValue(request, name, component);
}

/** RFC 9421, section 2.2. `@status` and anything with `req` belong to responses. */
function derivedValue(request: SignedRequest, name: string, { parameters }: Item): Value {
  const query = request.target.indexOf("?");
  if (name === "@query-param") {
    const parameter = parameters.get("name");
    if (parameters.size !== 1 || parameter?.kind !== "string") return UNSUPPORTED;
    return queryParameter(query < 0 ? "" : request.target.slice(query + 1), parameter.value);
  }
  if (parameters.size > 0) return UNSUPPORTED;
  const scheme = request.scheme.toLowerCase();
  switch (name) {
    case "@method":
      return present(request.method);
    case "@scheme":
      return present(scheme);
    case "@authority": {
      const authority = normaliseAuthority(scheme, request.authority);
      return authority === undefined ? ABSENT : present(authority);
    }
    case "@target-uri":
      return present(`${scheme}://${request.authority}${request.target}`);
    case "@request-target":
      return present(request.target);
    case "@path":
      return present((query < 0 ? request.target : request.target.slice(0, query)) || "/");
    case "@query":
      return present(query < 0 ? "?" : request.target.slice(query));
    default:
      return UNSUPPORTED;
  }
}

/** RFC 9421, section 2.2.8. A name that occurs twice cannot be covered. */
function queryParameter(query: string, wanted: string): Value {
  const found: string[] = [];
  for (const pair of query.split("&")) {
    const equals = pair.indexOf("=");
    const name = formDecode(equals < 0 ? pair : pair.slice(0, equals));
    if (name !== undefined && formEncode(name) === wanted) found.push(equals < 0 ? "" : pair.slice(equals + 1));
  }
  const value = found.length === 1 ? formDecode(found[0] as string) : undefined;
  return value === undefined ? ABSENT : present(formEncode(value));
}

function formDecode(text: string): string | undefined {
  try {
    return decodeURIComponent(text.replaceAll("+", " "));
  } catch {
    return undefined; // fails closed: such a parameter cannot be covered
  }
}

/** @param text well formed, as {@link formDecode} makes it */
function formEncode(text: string): string {
  return encodeURIComponent(text).replace(
    /[!'()~]/g,
    (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}

/** RFC 9421, section 2.1. `tr` (trailers) never reaches a check, `req` belongs to responses. */
function fieldValue(request: SignedRequest, name: string, { parameters }: Item): Value {
  if (!/^[a-z0-9!#$%&'*+\-.^_`|~]+$/.test(name) || parameters.size > 1) return UNSUPPORTED;
  const values = request.values(name);
  if (values.length === 0) return ABSENT;
  const [parameter] = parameters;
  if (parameter === undefined) return present(combined(values));
  const [flag, value] = parameter;
  if (flag === "bs" && value.kind === "boolean" && value.value) {
    return present(values.map((line) => `:${Buffer.from(line.trim(), "latin1").toString("base64")}:`).join(", "));
  }
  if (!DICTIONARIES.has(name)) return UNSUPPORTED;
  const members = parseDictionary(combined(values));
  if (members === undefined) return ABSENT;
  if (flag === "sf" && value.kind === "boolean" && value.value) return present(serialiseDictionary(members));
  if (flag !== "key" || value.kind !== "string") return UNSUPPORTED;
  const member = members.get(value.value);
  return member === undefined ? ABSENT : present(serialiseMember(member));
}

function combined(values: readonly string[]): string {
  return values.map((line) => line.replace(/[ \t]*\r?\n[ \t]+/g, " ").trim()).join(", ");
}

/** A line break in a value would forge further lines of the base. */
function present(value: string): Value {
  return /[\r\n]/.test(value) ? ABSENT : { ok: true, value };
}
