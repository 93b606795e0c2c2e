/**
 * Packs the data of a policy: lists, databases and posture facts, written in it or in files that it names. It may take its
 * time; `open-data.ts` opens what comes of it, where requests are waiting.
 */

import { timestampMs } from "@bufbuild/protobuf/wkt";
import {
  type AddressList,
  type Facts,
  type FingerprintList,
  type Geo,
  ListAction,
  ListFormat,
  type Posture,
} from "../gen/sallyport/policy/v1/policy_pb.ts";
import type { PostureFacts } from "../model/policy.ts";
import { type AddressRange, readRanges } from "./address.ts";
import { ALWAYS_FRESH_MS, LIST_BITS } from "./defaults.ts";
import { type Files, SHIPPED_OR_NONE } from "./files.ts";
import { Words } from "./growing.ts";
import { type CsvColumns, type Entries, readCsvFile, readListFile } from "./list-file.ts";
import { HitsBuilder, type PackedHits } from "./list-hits.ts";
import { type DatabaseKind, openDatabase } from "./mmdb-database.ts";
import { readMmdbList } from "./mmdb-list.ts";
import { type PackedTable, type PackedTexts, TableBuilder, TextsBuilder } from "./packed-table.ts";
import { parseFacts } from "./parse.ts";
import { type PackedRanges, RangesBuilder } from "./ranges.ts";

/** Most ranges and most fingerprints of all lists together. */
const LISTED_MAX = 4_000_000;

export interface PackedAddresses {
  readonly hits: PackedHits;
  readonly ranges: PackedRanges;
}

export function packAddresses(lists: readonly AddressList[], files: Files): PackedAddresses {
  const hits = new HitsBuilder();
  const ranges = new RangesBuilder((earlier, later) => hits.prefer(earlier, later));
  for (const [index, list] of lists.entries()) {
    const hitOf = hitsOf(list, hits);
    const add = (range: AddressRange, bits: number | undefined): void => {
      if (ranges.size < LISTED_MAX) ranges.add(range, hitOf(bits));
    };
    const take = (text: string, bits: number | undefined): boolean => {
      const read = readRanges(text);
      for (const range of read ?? []) add(range, bits);
      return read !== undefined;
    };
    for (const text of list.ranges) take(text, undefined);
    const path = `spec.lists.addresses[${index}].file`;
    if (formatOf(list) !== ListFormat.MMDB) {
      readFileOf(list, path, ADDRESS_COLUMNS, { expected: "an address or a CIDR range", take }, files);
      continue;
    }
    const bytes = files.bytes(path, list.file);
    if (bytes === undefined) continue;
    const got = readMmdbList(bytes, list, (range) => {
      add(range, undefined);
      return ranges.size < LISTED_MAX;
    });
    if (got !== undefined) files.fault(list.file, "an MMDB database of networks to list", got);
  }
  if (ranges.size >= LISTED_MAX) files.report("spec.lists.addresses", `fewer than ${LISTED_MAX} ranges in all`, "more");
  return { hits: hits.pack(), ranges: ranges.pack() };
}

export interface PackedFingerprints {
  readonly hits: PackedHits;
  readonly table: PackedTable;
  /** Number of each fingerprint's hit. */
  readonly hitOf: Uint32Array;
}

export function packFingerprints(lists: readonly FingerprintList[], files: Files): PackedFingerprints {
  const hits = new HitsBuilder();
  const table = new TableBuilder();
  const numbers = new Words();
  for (const [index, list] of lists.entries()) {
    const hitOf = hitsOf(list, hits);
    const take = (text: string, bits: number | undefined): boolean => {
      if (!/^[A-Za-z0-9][!-~]{0,255}$/.test(text)) return false;
      if (table.size >= LISTED_MAX) return true;
      const hit = hitOf(bits);
      const number = table.add(text);
      if (number === numbers.length) numbers.push(hit);
      else numbers.set(number, hits.prefer(numbers.at(number), hit));
      return true;
    };
    for (const text of list.values) take(text, undefined);
    const path = `spec.lists.fingerprints[${index}].file`;
    if (formatOf(list) === ListFormat.MMDB) {
      files.report(path, "a plain or CSV file of fingerprints", "an MMDB database, which holds networks");
    } else readFileOf(list, path, FINGERPRINT_COLUMNS, { expected: "a fingerprint", take }, files);
  }
  if (table.size >= LISTED_MAX)
    files.report("spec.lists.fingerprints", `fewer than ${LISTED_MAX} values in all`, "more");
  return { hits: hits.pack(), table: table.pack(), hitOf: numbers.pack() };
}

/** Numbers of the list's hits, by bits; the list's own where an entry has none. */
function hitsOf(list: AddressList | FingerprintList, hits: HitsBuilder): (bits: number | undefined) => number {
  const action = list.action === ListAction.BLOCK ? "block" : "score";
  const numberOf = hits.list({ list: list.name, action, reason: list.reason || list.name });
  return (own) => numberOf(own ?? list.bits ?? LIST_BITS);
}

const ADDRESS_COLUMNS: Pick<CsvColumns, "usual" | "spans"> = {
  usual: ["ip", "address", "cidr", "network", "range", "prefix"],
  spans: [
    ["start", "end"],
    ["first", "last"],
    ["ip_from", "ip_to"],
    ["start_ip", "end_ip"],
    ["ip_range_start", "ip_range_end"],
  ],
};

const FINGERPRINT_COLUMNS: Pick<CsvColumns, "usual" | "spans"> = {
  usual: ["ja4", "ja3", "fingerprint", "ja3_md5", "hash"],
  spans: [],
};

function formatOf({ file, format }: AddressList | FingerprintList): ListFormat {
  if (file === "" || format !== ListFormat.UNSPECIFIED) return format;
  if (/\.csv$/i.test(file)) return ListFormat.CSV;
  return /\.mmdb$/i.test(file) ? ListFormat.MMDB : ListFormat.PLAIN;
}

function readFileOf(
  list: AddressList | FingerprintList,
  path: string,
  columns: Pick<CsvColumns, "usual" | "spans">,
  entries: Entries,
  files: Files,
): void {
  if (list.file === "") return;
  const text = files.text(path, list.file);
  if (text === undefined) return;
  const { column, bitsColumn } = list;
  const problems =
    formatOf(list) === ListFormat.CSV
      ? readCsvFile(text, list.file, { column, bitsColumn, ...columns }, entries)
      : readListFile(text, list.file, entries);
  files.problems.push(...problems);
}

export interface PackedGeo {
  /** Bytes of databases that were opened and looked at. */
  readonly databases: readonly { readonly kind: DatabaseKind; readonly bytes: Uint8Array }[];
  /** Whether the shipped table of autonomous systems is asked for. */
  readonly shipped: boolean;
}

export function packGeo(geo: Geo | undefined, files: Files): PackedGeo {
  const databases: { readonly kind: DatabaseKind; readonly bytes: Uint8Array }[] = [];
  const check = (kind: DatabaseKind, name: string): void => {
    const bytes = name === "" || SHIPPED_OR_NONE.includes(name) ? undefined : files.bytes(`spec.geo.${kind}`, name);
    if (bytes === undefined) return;
    const opened = openDatabase(kind, bytes);
    if (opened.ok) databases.push({ kind, bytes });
    else files.fault(name, opened.expected, opened.got);
  };
  check("asn", geo?.asn ?? "");
  check("country", geo?.country ?? "");
  return { databases, shipped: geo?.asn === undefined || geo.asn === "" || geo.asn === "builtin" };
}

export interface PackedPosture {
  readonly table: PackedTable;
  /** Of each subject, as JSON. */
  readonly facts: PackedTexts;
  /** Number of the facts of each subject: the last that were stated. */
  readonly factsOf: Uint32Array;
}

/** Facts by subject; later statements replace earlier ones, and those of files the ones written in the policy. */
export function packPostureFacts(posture: Posture | undefined, files: Files): PackedPosture {
  const table = new TableBuilder();
  const texts = new TextsBuilder();
  const latest = new Words();
  const take = (facts: Facts, origin: string): void => {
    const number = table.add(facts.subject);
    const text = texts.add(JSON.stringify(statementOf(facts, origin)));
    if (number === latest.length) latest.push(text);
    else latest.set(number, text);
  };
  for (const facts of posture?.facts ?? []) take(facts, "policy");
  for (const [index, name] of (posture?.files ?? []).entries()) {
    const text = files.text(`spec.posture.files[${index}]`, name);
    if (text === undefined) continue;
    const parsed = parseFacts(text, name);
    if (parsed.ok) for (const facts of parsed.facts) take(facts, name);
    else files.problems.push(...parsed.problems);
  }
  return { table: table.pack(), facts: texts.pack(), factsOf: latest.pack() };
}

function statementOf({ facts, source, reportedAt }: Facts, origin: string): PostureFacts {
  return {
    facts,
    source: source || origin,
    reportedAtMs: reportedAt === undefined ? ALWAYS_FRESH_MS : timestampMs(reportedAt),
  };
}
