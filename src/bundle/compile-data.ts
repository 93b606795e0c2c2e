/** Compiles the data of a policy: lists, databases and posture facts, written in it or in files that it names. */

import {
  type AddressList,
  type Facts,
  type FingerprintList,
  type Geo,
  ListAction,
  type Posture,
} from "../gen/sallyport/policy/v1/policy_pb.ts";
import type { AddressLists, GeoLookup, ListHit, PostureFacts } from "../model/policy.ts";
import { readRange } from "./address.ts";
import { ALWAYS_FRESH_MS, LIST_BITS } from "./defaults.ts";
import { type Files, SHIPPED_OR_NONE } from "./files.ts";
import { type Database, type DatabaseKind, geoLookup, openDatabase } from "./geo.ts";
import { readListFile } from "./list-file.ts";
import type { Networks } from "./networks.ts";
import { parseFacts } from "./parse.ts";
import { buildAddressLists, type ListedRange, prefer } from "./ranges.ts";

/** Most ranges and most fingerprints of all lists together. */
const LISTED_MAX = 4_000_000;

export function compileAddresses(lists: readonly AddressList[], files: Files): AddressLists {
  const listed: ListedRange[] = [];
  for (const [index, list] of lists.entries()) {
    const hitOf = hitsOf(list);
    const take = (text: string, bits: number | undefined): boolean => {
      const range = readRange(text);
      if (range !== undefined && listed.length < LISTED_MAX) listed.push({ range, hit: hitOf(bits) });
      return range !== undefined;
    };
    for (const text of list.ranges) take(text, undefined);
    readFileOf(list, `spec.lists.addresses[${index}].file`, "an address or a CIDR range", files, take);
  }
  if (listed.length >= LISTED_MAX)
    files.report("spec.lists.addresses", `fewer than ${LISTED_MAX} ranges in all`, "more");
  return buildAddressLists(listed);
}

export function compileFingerprints(lists: readonly FingerprintList[], files: Files): ReadonlyMap<string, ListHit> {
  const hits = new Map<string, ListHit>();
  for (const [index, list] of lists.entries()) {
    const hitOf = hitsOf(list);
    const take = (text: string, bits: number | undefined): boolean => {
      if (!/^[!-~]{1,256}$/.test(text)) return false;
      const hit = hitOf(bits);
      const earlier = hits.get(text);
      if (hits.size < LISTED_MAX) hits.set(text, earlier === undefined ? hit : prefer(earlier, hit));
      return true;
    };
    for (const text of list.values) take(text, undefined);
    readFileOf(list, `spec.lists.fingerprints[${index}].file`, "a fingerprint", files, take);
  }
  if (hits.size >= LISTED_MAX)
    files.report("spec.lists.fingerprints", `fewer than ${LISTED_MAX} values in all`, "more");
  return hits;
}

/** One shared hit for all entries of a list that have the same bits. */
function hitsOf(list: AddressList | FingerprintList): (bits: number | undefined) => ListHit {
  const action = list.action === ListAction.BLOCK ? "block" : "score";
  const hits = new Map<number, ListHit>();
  return (own) => {
    const bits = own ?? list.bits ?? LIST_BITS;
    const hit = hits.get(bits) ?? { list: list.name, action, bits, reason: list.reason || list.name };
    hits.set(bits, hit);
    return hit;
  };
}

function readFileOf(
  list: { readonly file: string },
  path: string,
  expected: string,
  files: Files,
  take: (text: string, bits: number | undefined) => boolean,
): void {
  if (list.file === "") return;
  const text = files.text(path, list.file);
  if (text !== undefined) files.problems.push(...readListFile(text, list.file, expected, take));
}

export function compileGeo(geo: Geo | undefined, files: Files, shipped: Networks | undefined): GeoLookup {
  const databases: Database[] = [];
  const open = (kind: DatabaseKind, name: string): void => {
    const bytes = name === "" || SHIPPED_OR_NONE.includes(name) ? undefined : files.bytes(`spec.geo.${kind}`, name);
    if (bytes === undefined) return;
    const opened = openDatabase(kind, bytes);
    if (opened.ok) databases.push(opened.database);
    else files.fault(name, opened.expected, opened.got);
  };
  open("asn", geo?.asn ?? "");
  open("country", geo?.country ?? "");
  const asks = geo?.asn === undefined || geo.asn === "" || geo.asn === "builtin";
  return geoLookup(databases, asks ? shipped : undefined);
}

/** Facts by subject; later statements replace earlier ones, and those of files the ones written in the policy. */
export function compilePostureFacts(posture: Posture | undefined, files: Files): ReadonlyMap<string, PostureFacts> {
  const stated = (posture?.facts ?? []).map((facts) => [facts.subject, factsOf(facts, "policy")] as const);
  const filed = (posture?.files ?? []).flatMap((name, index) => {
    const text = files.text(`spec.posture.files[${index}]`, name);
    if (text === undefined) return [];
    const parsed = parseFacts(text, name);
    if (parsed.ok) return parsed.facts.map((facts) => [facts.subject, factsOf(facts, name)] as const);
    files.problems.push(...parsed.problems);
    return [];
  });
  return new Map([...stated, ...filed]);
}

function factsOf({ facts, source, reportedAt }: Facts, origin: string): PostureFacts {
  return {
    // Without a prototype: a fact that is asked for by a name such as `constructor` is absent.
    facts: Object.assign(Object.create(null), facts) as Record<string, string>,
    source: source || origin,
    reportedAtMs:
      reportedAt === undefined ? ALWAYS_FRESH_MS : Number(reportedAt.seconds) * 1_000 + reportedAt.nanos / 1_000_000,
  };
}
