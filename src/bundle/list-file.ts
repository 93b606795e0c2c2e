/** Reads files of listed values: plain lines, or comma-separated values. */

import { CsvError, parse } from "csv-parse/sync";
import { fileProblem, type Problem, quote } from "./problem.ts";

/** Most faulty lines that are listed of one file. */
const PROBLEMS_SHOWN_MAX = 20;

const BITS_MAX = 64;
/** Most characters of one CSV record. */
const RECORD_CHARS_MAX = 64 * 1024;

/** What entries of a file are, and who takes them. */
export interface Entries {
  /** What a value is, for messages. */
  readonly expected: string;
  /** Takes a value with the bits of its line, `undefined` where the line has none; false refuses the value. */
  readonly take: (value: string, bits: number | undefined) => boolean;
}

/** Where values are in comma-separated lines. */
export interface CsvColumns {
  /** Name in the header line or number from 1; empty: the first of `usual`, else 1. */
  readonly column: string;
  /** Name or number; empty: none. */
  readonly bitsColumn: string;
  /** Names that the column usually has, lower case. */
  readonly usual: readonly string[];
  /** Pairs of columns, lower case, that hold the first and last of a span where no column of `usual` is there. */
  readonly spans: readonly (readonly [first: string, last: string])[];
}

/**
 * Reads every line: `VALUE [BITS]`, parted by white space or a comma; `#` or `;` starts a comment.
 *
 * @returns what is wrong: the first lines of it, and how many there are besides
 */
export function readListFile(text: string, file: string, { expected, take }: Entries): readonly Problem[] {
  const faults = new Faults(file);
  let taken = 0;
  for (const [number, line] of linesOf(text)) {
    const content = withoutComment(line);
    if (content === "") continue;
    const { value, bitsText, rest } = partsOf(content);
    const bits = bitsText === undefined ? undefined : readBits(bitsText);
    if (rest || Number.isNaN(bits)) {
      faults.add(number, `${expected}, then at most bits from 0 to ${BITS_MAX}`, quote(content));
    } else if (take(value, bits)) taken++;
    else faults.add(number, expected, quote(value));
  }
  return faults.problems(taken, expected);
}

/**
 * Reads comma-separated values (RFC 4180), as feeds write them: with or without a header line, lines of unlike length,
 * quotes that stand for themselves, CR LF or LF, a byte order mark, lines that begin with `#` as comments.
 *
 * @returns what is wrong: the first lines of it, and how many there are besides
 */
export function readCsvFile(text: string, file: string, columns: CsvColumns, entries: Entries): readonly Problem[] {
  const faults = new Faults(file);
  let places: Places | undefined;
  let taken = 0;
  const read = (record: readonly string[], line: number): void => {
    if (places === undefined) {
      // A notice of several lines before the first entry, such as a licence.
      if (record.some((cell) => cell.includes("\n"))) return;
      const found = placesOf(columns, record);
      if ("fault" in found) {
        faults.add(line, found.fault, quote(record.join(",")));
        throw new HeaderFault();
      }
      places = found;
      if (places.header) return;
    }
    const { value, last, bits: bitsAt } = places;
    const own = record[value] ?? "";
    const content = last === undefined ? own : `${own}-${record[last] ?? ""}`;
    const bitsText = bitsAt === undefined ? "" : (record[bitsAt] ?? "");
    const bits = bitsText === "" ? undefined : readBits(bitsText);
    if (Number.isNaN(bits)) faults.add(line, `bits from 0 to ${BITS_MAX}`, quote(bitsText));
    else if (entries.take(content, bits)) taken++;
    else faults.add(line, entries.expected, content === "" ? "nothing" : quote(content));
  };
  try {
    parse(text, {
      bom: true,
      comment: "#",
      comment_no_infix: true,
      max_record_size: RECORD_CHARS_MAX,
      relax_column_count: true,
      relax_quotes: true,
      skip_empty_lines: true,
      trim: true,
      on_record: (record: string[], { lines }) => {
        read(record, lines);
        return null; // nothing is gathered twice
      },
    });
  } catch (error) {
    // Fails closed: what cannot be parted into values is refused, and so is a file without the wanted column.
    if (error instanceof CsvError) {
      const line = typeof error.lines === "number" ? error.lines : 1;
      faults.add(line, "comma-separated values (RFC 4180)", faultOf(error));
    } else if (!(error instanceof HeaderFault)) throw error;
  }
  return faults.problems(taken, entries.expected);
}

/** Ends the reading of a file whose header line was found wrong, which is reported. */
class HeaderFault extends Error {}

interface Places {
  readonly header: boolean;
  readonly value: number;
  /** Where the last address of a span is, `value` then being the first. */
  readonly last: number | undefined;
  readonly bits: number | undefined;
}

function placesOf(columns: CsvColumns, first: readonly string[]): Places | { readonly fault: string } {
  const names = first.map((name) => name.toLowerCase());
  const numberOf = (column: string): number | undefined =>
    /^[1-9]\d{0,3}$/.test(column) ? Number(column) - 1 : undefined;
  const nameOf = (column: string): number => names.indexOf(column.toLowerCase());
  const named = [columns.column, columns.bitsColumn].filter((name) => name !== "" && numberOf(name) === undefined);
  for (const name of named) if (nameOf(name) === -1) return { fault: `a header line with a column ${quote(name)}` };
  const usual = columns.usual.map(nameOf).find((place) => place !== -1);
  const span = columns.spans.find((pair) => pair.every((name) => nameOf(name) !== -1));
  const header = named.length > 0 || usual !== undefined || span !== undefined || !hasEntry(first);
  const bits = columns.bitsColumn === "" ? undefined : (numberOf(columns.bitsColumn) ?? nameOf(columns.bitsColumn));
  if (columns.column !== "") {
    return { header, value: numberOf(columns.column) ?? nameOf(columns.column), last: undefined, bits };
  }
  if (usual === undefined && span !== undefined) {
    return { header, value: nameOf(span[0]), last: nameOf(span[1]), bits };
  }
  return { header, value: usual ?? 0, last: undefined, bits };
}

/** A line of which no cell holds a digit is made of names: every address has one, and so has every fingerprint of note. */
function hasEntry(cells: readonly string[]): boolean {
  return cells.some((cell) => /\d|::/.test(cell));
}

/** The library's words speak of its options. */
function faultOf({ code }: CsvError): string {
  if (code === "CSV_QUOTE_NOT_CLOSED") return "a quote that is not closed";
  return code === "CSV_MAX_RECORD_SIZE" ? `a record of more than ${RECORD_CHARS_MAX} characters` : "something else";
}

/** Gathers faulty lines, of which the first are shown. */
class Faults {
  private readonly shown: Problem[] = [];
  private readonly file: string;
  private count = 0;

  constructor(file: string) {
    this.file = file;
  }

  add(line: number, expected: string, got: string): void {
    this.count++;
    if (this.count > PROBLEMS_SHOWN_MAX) return;
    this.shown.push({ file: this.file, line, column: undefined, path: "", expected, got, suggestion: undefined });
  }

  problems(taken: number, expected: string): readonly Problem[] {
    if (this.count > PROBLEMS_SHOWN_MAX) {
      const more = fileProblem(this.file, "no other faulty lines", `${this.count - PROBLEMS_SHOWN_MAX} more`);
      return [...this.shown, more];
    }
    if (this.count === 0 && taken === 0) return [fileProblem(this.file, `at least one line with ${expected}`, "none")];
    return this.shown;
  }
}

/** Lines and their numbers from 1, one at a time: a list may have millions. */
function* linesOf(text: string): Generator<readonly [number, string]> {
  let number = 1;
  let start = text.startsWith("\u{feff}") ? 1 : 0;
  for (let end = text.indexOf("\n", start); end !== -1; end = text.indexOf("\n", start)) {
    yield [number++, text.slice(start, end)];
    start = end + 1;
  }
  if (start < text.length) yield [number, text.slice(start)];
}

function withoutComment(line: string): string {
  const end = line.search(/[#;]/);
  return (end === -1 ? line : line.slice(0, end)).trim();
}

/** A span of addresses may have blanks around its dash, as eMule's lists do. */
function partsOf(content: string): {
  readonly value: string;
  readonly bitsText: string | undefined;
  readonly rest: boolean;
} {
  const [value = "", bitsText, ...rest] = content.replace(/\s+-\s+/, "-").split(/[\s,]+/);
  return { value, bitsText, rest: rest.length > 0 };
}

function readBits(text: string): number {
  const bits = /^\d{1,3}(?:\.\d{1,6})?$/.test(text) ? Number(text) : Number.NaN;
  return bits <= BITS_MAX ? bits : Number.NaN;
}
