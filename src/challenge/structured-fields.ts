/**
 * Structured field values (RFC 9651), as far as signatures need them: dictionaries and lists of items and inner lists with
 * parameters. Strict, linear in the length of the text, bounded, and never throws on what callers send. Own code because
 * the client helper carries no dependencies and because a parser on the request path must not throw.
 */

export type BareItem =
  | { readonly kind: "integer"; readonly value: number }
  | { readonly kind: "decimal"; readonly value: number }
  | { readonly kind: "string"; readonly value: string }
  | { readonly kind: "token"; readonly value: string }
  | { readonly kind: "bytes"; readonly value: Buffer }
  | { readonly kind: "boolean"; readonly value: boolean }
  | { readonly kind: "date"; readonly value: number };

export type Parameters = ReadonlyMap<string, BareItem>;

export interface Item {
  readonly kind: "item";
  readonly value: BareItem;
  readonly parameters: Parameters;
}

export interface InnerList {
  readonly kind: "inner_list";
  readonly items: readonly Item[];
  readonly parameters: Parameters;
}

export type Member = Item | InnerList;

/** Longer fields are refused unread. */
export const FIELD_CHARS_MAX = 16 * 1024;
/** Members, items and parameters of one field together. */
const PARTS_MAX = 256;

/** @returns `undefined` for anything that is not a dictionary; of members with one key, the last counts, as specified */
export function parseDictionary(text: string): ReadonlyMap<string, Member> | undefined {
  return parse(text, (reader) => {
    const members = new Map<string, Member>();
    if (reader.atEnd()) return members;
    for (;;) {
      const key = reader.key();
      let member: Member;
      if (reader.take("=")) member = reader.member();
      else member = { kind: "item", value: { kind: "boolean", value: true }, parameters: reader.parameters() };
      members.delete(key);
      members.set(key, member);
      if (!reader.comma()) return members;
    }
  });
}

export function parseList(text: string): readonly Member[] | undefined {
  return parse(text, (reader) => {
    const members: Member[] = [];
    if (reader.atEnd()) return members;
    for (;;) {
      members.push(reader.member());
      if (!reader.comma()) return members;
    }
  });
}

export function parseItem(text: string): Item | undefined {
  return parse(text, (reader) => reader.item());
}

export function serialiseDictionary(members: ReadonlyMap<string, Member>): string {
  return [...members]
    .map(([key, member]) =>
      member.kind === "item" && member.value.kind === "boolean" && member.value.value
        ? `${key}${serialiseParameters(member.parameters)}`
        : `${key}=${serialiseMember(member)}`,
    )
    .join(", ");
}

export function serialiseList(members: readonly Member[]): string {
  return members.map(serialiseMember).join(", ");
}

export function serialiseMember(member: Member): string {
  if (member.kind === "item") return serialiseItem(member);
  return `(${member.items.map(serialiseItem).join(" ")})${serialiseParameters(member.parameters)}`;
}

export function serialiseItem({ value, parameters }: Item): string {
  return `${serialiseBare(value)}${serialiseParameters(parameters)}`;
}

export function serialiseParameters(parameters: Parameters): string {
  return [...parameters]
    .map(([key, value]) => (value.kind === "boolean" && value.value ? `;${key}` : `;${key}=${serialiseBare(value)}`))
    .join("");
}

/** @throws {RangeError} for a string that no header can hold: a bug in the caller */
function serialiseBare(item: BareItem): string {
  switch (item.kind) {
    case "integer":
      return String(item.value);
    case "decimal":
      return serialiseDecimal(item.value);
    case "string":
      if (/[^\x20-\x7e]/.test(item.value)) throw new RangeError("a structured string holds visible ASCII only");
      return `"${item.value.replace(/["\\]/g, "\\$&")}"`;
    case "token":
      return item.value;
    case "bytes":
      return `:${item.value.toString("base64")}:`;
    case "boolean":
      return item.value ? "?1" : "?0";
    case "date":
      return `@${item.value}`;
  }
}

function serialiseDecimal(value: number): string {
  const text = value.toFixed(3).replace(/0{1,2}$/, "");
  return text;
}

export function stringItem(value: string, parameters: Parameters = new Map()): Item {
  return { kind: "item", value: { kind: "string", value }, parameters };
}

export function bytesItem(value: Uint8Array): Item {
  return { kind: "item", value: { kind: "bytes", value: Buffer.from(value) }, parameters: new Map() };
}

function parse<T>(text: string, read: (reader: Reader) => T): T | undefined {
  if (text.length > FIELD_CHARS_MAX) return undefined;
  const reader = new Reader(text);
  try {
    reader.skipSpaces();
    const value = read(reader);
    reader.skipSpaces();
    return reader.atEnd() ? value : undefined;
  } catch (error) {
    if (error !== MALFORMED) throw error;
    return undefined; // fails closed: not a structured field
  }
}

/** Thrown inside this file only, and always the same: no stack is made for a caller's nonsense. */
const MALFORMED = Symbol("malformed");

class Reader {
  private at = 0;
  private parts = 0;
  private readonly text: string;

  constructor(text: string) {
    this.text = text;
  }

  atEnd(): boolean {
    return this.at >= this.text.length;
  }

  skipSpaces(): void {
    while (this.text[this.at] === " ") this.at++;
  }

  take(character: string): boolean {
    if (this.text[this.at] !== character) return false;
    this.at++;
    return true;
  }

  /** Whether another member follows. A trailing comma is an error. */
  comma(): boolean {
    this.skipBlanks();
    if (this.atEnd()) return false;
    if (!this.take(",")) throw MALFORMED;
    this.skipBlanks();
    if (this.atEnd()) throw MALFORMED;
    return true;
  }

  key(): string {
    return this.match(/[a-z*][a-z0-9_\-.*]*/y);
  }

  member(): Member {
    return this.text[this.at] === "(" ? this.innerList() : this.item();
  }

  item(): Item {
    this.count();
    const value = this.bare();
    return { kind: "item", value, parameters: this.parameters() };
  }

  parameters(): Parameters {
    const parameters = new Map<string, BareItem>();
    while (this.take(";")) {
      this.count();
      this.skipSpaces();
      const key = this.key();
      const value: BareItem = this.take("=") ? this.bare() : { kind: "boolean", value: true };
      parameters.delete(key);
      parameters.set(key, value);
    }
    return parameters;
  }

  private innerList(): InnerList {
    this.count();
    this.at++;
    const items: Item[] = [];
    for (;;) {
      this.skipSpaces();
      if (this.take(")")) return { kind: "inner_list", items, parameters: this.parameters() };
      items.push(this.item());
      if (this.text[this.at] !== " " && this.text[this.at] !== ")") throw MALFORMED;
    }
  }

  private bare(): BareItem {
    const first = this.text[this.at] ?? "";
    if (first === '"') return { kind: "string", value: this.string() };
    if (first === ":") return { kind: "bytes", value: this.bytes() };
    if (first === "?") return { kind: "boolean", value: this.match(/\?[01]/y) === "?1" };
    if (first === "@") return { kind: "date", value: Number(this.match(/@-?\d{1,15}(?![\d.])/y).slice(1)) };
    if (/[0-9-]/.test(first)) return this.number();
    return { kind: "token", value: this.match(/[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*/y) };
  }

  private number(): BareItem {
    const text = this.match(/-?\d+(?:\.\d{1,3}(?!\d))?/y);
    const digits = text.replace("-", "").split(".")[0] as string;
    if (text.includes(".")) {
      if (digits.length > 12) throw MALFORMED;
      return { kind: "decimal", value: Number(text) };
    }
    if (digits.length > 15) throw MALFORMED;
    return { kind: "integer", value: Number(text) };
  }

  private string(): string {
    return this.match(/"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"/y)
      .slice(1, -1)
      .replace(/\\(["\\])/g, "$1");
  }

  private bytes(): Buffer {
    const text = this.match(/:[A-Za-z0-9+/]*={0,2}:/y).slice(1, -1);
    const bytes = Buffer.from(text, "base64");
    // One spelling for one value; padding may be left out (RFC 9651, section 4.2.7), but not be wrong.
    if (bytes.toString("base64").replace(/=+$/, "") !== text.replace(/=+$/, "")) throw MALFORMED;
    if (text.includes("=") && text.length % 4 !== 0) throw MALFORMED;
    return bytes;
  }

  private match(pattern: RegExp): string {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text)?.[0];
    if (found === undefined || found === "") throw MALFORMED;
    this.at += found.length;
    return found;
  }

  private skipBlanks(): void {
    while (this.text[this.at] === " " || this.text[this.at] === "\t") this.at++;
  }

  private count(): void {
    if (++this.parts > PARTS_MAX) throw MALFORMED;
  }
}
