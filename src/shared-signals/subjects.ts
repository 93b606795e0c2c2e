/** Reads subject identifiers (RFC 9493, and the formats that SSF 1.0, section 3.4 adds) and matches them. */

import { parseSpiffeId } from "../identity/spiffe.ts";
import type { Principal } from "../model/identity.ts";

/** Bounds of one subject; beyond them it is refused. */
const TEXT_CHARS_MAX = 2_048;
const MEMBERS_MAX = 16;
const ALIASES_MAX = 16;
const ADDRESSES_MAX = 64;

/** A subject that names one thing. */
export type SimpleSubject =
  /** `uri` with a SPIFFE ID. */
  | { readonly kind: "spiffe"; readonly id: string }
  | { readonly kind: "iss_sub"; readonly iss: string; readonly sub: string }
  | { readonly kind: "opaque"; readonly id: string }
  /** SSF 1.0, section 3.4.1. */
  | { readonly kind: "jwt_id"; readonly iss: string; readonly jti: string }
  /** `account`, `email`, `phone_number`: people, of whom nothing is known here. */
  | { readonly kind: "person"; readonly format: string }
  /** Well-formed, or of a format of which we know nothing, but naming nothing that could be judged here. */
  | { readonly kind: "unsupported"; readonly format: string };

/** A subject of an event. */
export type Subject =
  | SimpleSubject
  /** RFC 9493, section 3.2.8: several names of the same subject. */
  | { readonly kind: "aliases"; readonly identifiers: readonly SimpleSubject[] }
  /** SSF 1.0, section 3.3: one subject, described by all of its members together. */
  | {
      readonly kind: "complex";
      readonly members: ReadonlyMap<string, SimpleSubject | (Subject & { readonly kind: "aliases" })>;
    };

export type ParsedSubject =
  | { readonly ok: true; readonly subject: Subject }
  | { readonly ok: false; readonly why: string };

/** What a format requires, all of them texts. */
const MEMBERS: Readonly<Record<string, readonly string[]>> = {
  account: ["uri"],
  email: ["email"],
  phone_number: ["phone_number"],
  iss_sub: ["iss", "sub"],
  opaque: ["id"],
  uri: ["uri"],
  did: ["url"],
  jwt_id: ["iss", "jti"],
  saml_assertion_id: ["issuer", "assertion_id"],
};

/** Reads an untrusted value. Its refusals repeat nothing of it. */
export function parseSubject(value: unknown): ParsedSubject {
  const given = record(value);
  if (given === undefined) return refuse("a subject that is no object");
  if (given.format === "complex") return parseComplex(given);
  if (given.format === "aliases") return parseAliases(given);
  return parseSimple(given);
}

function parseSimple(given: Readonly<Record<string, unknown>>): ParsedSubject & { subject?: SimpleSubject } {
  const format = text(given.format);
  if (format === undefined) return refuse("a subject without a format");
  const texts: string[] = [];
  for (const name of Object.hasOwn(MEMBERS, format) ? MEMBERS[format]! : []) {
    const found = text(given[name]);
    if (found === undefined) return refuse(`a subject of format ${format} without a usable ${name}`);
    texts.push(found);
  }
  const [first = "", second = ""] = texts;
  switch (format) {
    case "uri":
      return accept(parseSpiffeId(first).ok ? { kind: "spiffe", id: first } : { kind: "unsupported", format: "uri" });
    case "iss_sub":
      return accept({ kind: "iss_sub", iss: first, sub: second });
    case "opaque":
      return accept({ kind: "opaque", id: first });
    case "jwt_id":
      return accept({ kind: "jwt_id", iss: first, jti: second });
    case "account":
    case "email":
    case "phone_number":
      return accept({ kind: "person", format });
    case "ip-addresses": {
      const addresses = given["ip-addresses"];
      const usable =
        Array.isArray(addresses) &&
        addresses.length <= ADDRESSES_MAX &&
        addresses.every((one) => text(one) !== undefined);
      return usable ? accept({ kind: "unsupported", format }) : refuse("a subject of format ip-addresses without them");
    }
    case "did":
    case "saml_assertion_id":
      return accept({ kind: "unsupported", format });
    default:
      // A format of one party's own (SSF 1.0, section 3.3): nothing can be said of its members.
      return accept({ kind: "unsupported", format: "other" });
  }
}

function parseAliases(given: Readonly<Record<string, unknown>>): ParsedSubject {
  const list = given.identifiers;
  if (!Array.isArray(list) || list.length === 0) return refuse("a subject of format aliases without identifiers");
  if (list.length > ALIASES_MAX) return refuse(`more than ${ALIASES_MAX} aliases`);
  const identifiers: SimpleSubject[] = [];
  for (const item of list) {
    const one = record(item);
    // RFC 9493, section 3.2.8: aliases must not nest.
    if (one === undefined || one.format === "aliases" || one.format === "complex") return refuse("aliases that nest");
    const parsed = parseSimple(one);
    if (parsed.subject === undefined) return parsed;
    identifiers.push(parsed.subject);
  }
  return { ok: true, subject: { kind: "aliases", identifiers } };
}

function parseComplex(given: Readonly<Record<string, unknown>>): ParsedSubject {
  const names = Object.keys(given).filter((name) => name !== "format");
  if (names.length > MEMBERS_MAX) return refuse(`more than ${MEMBERS_MAX} members of a complex subject`);
  const members = new Map<string, SimpleSubject | (Subject & { readonly kind: "aliases" })>();
  for (const name of names) {
    const one = record(given[name]);
    // Additional fields that are no subjects are to be ignored (SSF 1.0, section 4.2.3).
    if (one === undefined || one.format === undefined) continue;
    if (one.format === "complex") return refuse("complex subjects that nest");
    const parsed = parseSubject(one);
    if (!parsed.ok) return parsed;
    if (parsed.subject.kind !== "complex") members.set(name, parsed.subject);
  }
  if (members.size === 0) return refuse("a complex subject without members");
  return { ok: true, subject: { kind: "complex", members } };
}

/** Canonical text of a subject's JSON: members in order of their names, so that equal subjects have equal texts. */
export function subjectKey(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(subjectKey).join(",")}]`;
  const given = record(value);
  if (given === undefined) return JSON.stringify(value) ?? "null";
  const members = Object.keys(given)
    .sort()
    .map((name) => `${JSON.stringify(name)}:${subjectKey(given[name])}`);
  return `{${members.join(",")}}`;
}

/**
 * Whether two subjects match (SSF 1.0, section 8.1.3.1): simple ones when they are identical; complex ones when no
 * member that both have differs.
 */
export function subjectsMatch(left: unknown, right: unknown): boolean {
  const one = record(left);
  const other = record(right);
  if (one === undefined || other === undefined) return false;
  if (one.format !== "complex" || other.format !== "complex") return subjectKey(one) === subjectKey(other);
  return Object.keys(one).every(
    (name) => !Object.hasOwn(other, name) || subjectKey(one[name]) === subjectKey(other[name]),
  );
}

/** A subject as we send it. */
export type OutgoingSubject = Readonly<Record<string, string>> & { readonly format: string };

/** The subject that names a principal to others; `undefined` for those who are known to nobody else. */
export function subjectOf(principal: Principal): OutgoingSubject | undefined {
  switch (principal.kind) {
    case "spiffe":
      return { format: "uri", uri: principal.name };
    case "jwt": {
      const bar = principal.name.indexOf("|");
      if (bar <= 0) return undefined;
      return { format: "iss_sub", iss: principal.name.slice(0, bar), sub: principal.name.slice(bar + 1) };
    }
    case "api_key":
    case "anonymous":
      return undefined;
  }
}

export function record(value: unknown): Readonly<Record<string, unknown>> | undefined {
  return typeof value === "object" && value !== null && !Array.isArray(value)
    ? (value as Record<string, unknown>)
    : undefined;
}

/** Texts go into locks and logs: control characters and halves of characters make one unusable. */
export function text(value: unknown, charsMax = TEXT_CHARS_MAX): string | undefined {
  if (typeof value !== "string" || value === "" || value.length > charsMax) return undefined;
  return /[\p{Cc}\p{Cs}]/u.test(value) ? undefined : value;
}

function accept(subject: SimpleSubject): { ok: true; subject: SimpleSubject } {
  return { ok: true, subject };
}

function refuse(why: string): { readonly ok: false; readonly why: string } {
  return { ok: false, why };
}
