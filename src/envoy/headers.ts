/** One view of request headers, whichever of its two encodings Envoy was configured to send. */

import { Recurring } from "./recurring.ts";
import { lenientTextOf, type WireCursor } from "./wire-cursor.ts";

/** Headers set by and for us begin so; the shipped Envoy configurations remove what a client sends of them. */
export const OWN_PREFIX = "x-sallyport-";

/** Header names in lower case. Values of one name in order; Envoy's joined form is one value. */
export interface Headers {
  /** The first value, or `undefined`. */
  first(name: string): string | undefined;
  /** All values, in order. */
  all(name: string): readonly string[];
  /** How often the header was sent; never more than 1 in Envoy's joined form. */
  count(name: string): number;
  /** Names that begin with `prefix`. */
  names(prefix: string): readonly string[];
}

/** Headers that every request is asked for: found without comparing names. */
const ASKED = [
  ":authority",
  ":method",
  ":path",
  ":scheme",
  "accept",
  "authorization",
  "content-type",
  "dpop",
  "signature-input",
  "upgrade",
  "user-agent",
  "x-forwarded-client-cert",
  "x-request-id",
  "x-sallyport-connection",
  "x-sallyport-ja3",
  "x-sallyport-ja4",
  "x-sallyport-peer-cert",
  "x-sallyport-peer-fp",
  "x-sallyport-principal",
  "x-sallyport-protocol",
  "x-sallyport-sni",
  "x-sallyport-source",
  "x-sallyport-source-port",
  "x-sallyport-tls",
] as const;

export type AskedHeader = (typeof ASKED)[number];

const SLOTS: ReadonlyMap<string, number> = new Map(ASKED.map((name, slot) => [name, slot]));
const NONE = -1;

interface HeaderName {
  readonly text: string;
  /** Its place among those that are asked for, or -1. */
  readonly slot: number;
}

interface ReadsBytes<T> {
  read(bytes: Buffer, start: number, end: number): T;
}

const NAMES_PLACES = 1_024;
/** Up to so many names are compared with one another. */
const NAMES_FEW = 16;
/** Joined names are told in lower case already, and taken as they are. */
const joinedNames = new Recurring<HeaderName>(NAMES_PLACES, (text) => ({ text, slot: SLOTS.get(text) ?? NONE }));
const separateNames = new Recurring<HeaderName>(NAMES_PLACES, (text) => {
  const name = text.toLowerCase();
  return { text: name, slot: SLOTS.get(name) ?? NONE };
});

/** Requests with more headers leave their room behind, where others leave it for the next. */
const ROOM_MAX = 128;
const NO_BYTES = Buffer.alloc(0);

/**
 * Where a request's headers lie in its message. Values are decoded when they are asked for, so that it is of use only as
 * long as the message's bytes are what they were. One is used for many requests, one after the other: see {@link begin}.
 */
export class WireHeaders implements Headers {
  private bytes: Buffer = NO_BYTES;
  /** Whether this is Envoy's joined form, where a name that is repeated has its last value. */
  private readonly joined: boolean;
  private size = 0;
  /** As many as there are headers count; what lies beyond was of another request. */
  private keys: string[] = [];
  /** Start and end of each value. */
  private spans: number[] = [];
  /** For each header that every request is asked for, the index of the value that counts as its first. */
  private readonly asked = new Int32Array(ASKED.length).fill(NONE);
  private decoded: (string | undefined)[] = [];
  private decodedSize = 0;

  constructor(joined: boolean) {
    this.joined = joined;
  }

  /** Forgets everything, secrets first, and begins with another message. */
  begin(bytes: Buffer): void {
    this.bytes = bytes;
    if (this.size > ROOM_MAX) {
      this.keys = [];
      this.spans = [];
      this.decoded = [];
    } else {
      for (let i = 0; i < this.decodedSize; i++) this.decoded[i] = undefined;
    }
    this.size = 0;
    this.decodedSize = 0;
    this.asked.fill(NONE);
  }

  /** `map<string, string>` entry, as {@link WireCursor} stands before its length. */
  readJoined(cursor: WireCursor): void {
    const length = cursor.uint32();
    const end = cursor.at + length;
    let nameStart = 0;
    let nameEnd = 0;
    let start = 0;
    let stop = 0;
    while (cursor.at < end) {
      // As in every map entry, what is neither key nor value is not skipped but read as the next tag.
      switch (cursor.field()) {
        case 1:
          cursor.text();
          nameStart = cursor.start;
          nameEnd = cursor.end;
          break;
        case 2:
          cursor.text();
          start = cursor.start;
          stop = cursor.end;
          break;
      }
    }
    this.add(joinedNames.read(this.bytes, nameStart, nameEnd), start, stop);
  }

  /** `envoy.config.core.v3.HeaderMap` up to `end`. @param depth of that message */
  readSeparate(cursor: WireCursor, end: number, depth: number): void {
    while (cursor.at < end) {
      const field = cursor.field();
      if (field === 1) this.readHeaderValue(cursor, cursor.message(depth + 1), depth + 1);
      else cursor.skip(field, depth);
    }
  }

  private readHeaderValue(cursor: WireCursor, end: number, depth: number): void {
    let nameStart = 0;
    let nameEnd = 0;
    let start = 0;
    let stop = 0;
    let rawStart = 0;
    let rawEnd = 0;
    while (cursor.at < end) {
      const field = cursor.field();
      switch (field) {
        case 1:
          cursor.text();
          nameStart = cursor.start;
          nameEnd = cursor.end;
          break;
        case 2:
          cursor.text();
          start = cursor.start;
          stop = cursor.end;
          break;
        case 3:
          cursor.span();
          rawStart = cursor.start;
          rawEnd = cursor.end;
          break;
        default:
          cursor.skip(field, depth);
      }
    }
    const name = separateNames.read(this.bytes, nameStart, nameEnd);
    if (rawEnd > rawStart) this.add(name, rawStart, rawEnd);
    else this.add(name, start, stop);
  }

  private add({ text, slot }: HeaderName, start: number, end: number): void {
    const index = this.size++;
    this.keys[index] = text;
    this.spans[2 * index] = start;
    this.spans[2 * index + 1] = end;
    if (slot !== NONE && (this.joined || this.asked[slot] === NONE)) this.asked[slot] = index;
  }

  first(name: string): string | undefined {
    const index = this.indexOf(name);
    return index === NONE ? undefined : this.value(index);
  }

  /** What is made of the first value, which must be no secret: `memo` remembers it. */
  firstBy<T>(name: AskedHeader, memo: ReadsBytes<T>): T | undefined {
    const index = this.asked[SLOTS.get(name) as number] as number;
    if (index === NONE) return undefined;
    return memo.read(this.bytes, this.spans[2 * index] as number, this.spans[2 * index + 1] as number);
  }

  all(name: string): readonly string[] {
    const first = this.indexOf(name);
    if (first === NONE) return NO_VALUES;
    if (this.joined) return [this.value(first)];
    const values: string[] = [];
    for (let i = first; i < this.size; i++) if (this.keys[i] === name) values.push(this.value(i));
    return values;
  }

  count(name: string): number {
    const first = this.indexOf(name);
    if (first === NONE) return 0;
    if (this.joined) return 1;
    let count = 0;
    for (let i = first; i < this.size; i++) if (this.keys[i] === name) count++;
    return count;
  }

  names(prefix: string): readonly string[] {
    let found: string[] | undefined;
    for (let i = 0; i < this.size; i++) {
      const name = this.keys[i] as string;
      if (!name.startsWith(prefix)) continue;
      if (found === undefined) found = [name];
      else if (!found.includes(name)) found.push(name);
      // Hostile requests bring hundreds: those are put in order otherwise.
      if (found.length > NAMES_FEW) return this.manyNames(prefix);
    }
    return found ?? NO_VALUES;
  }

  private indexOf(name: string): number {
    const slot = SLOTS.get(name);
    if (slot !== undefined) return this.asked[slot] as number;
    const { keys, size } = this;
    let found = NONE;
    for (let i = 0; i < size && (this.joined || found === NONE); i++) if (keys[i] === name) found = i;
    return found;
  }

  private manyNames(prefix: string): readonly string[] {
    return [...new Set(this.keys.slice(0, this.size).filter((name) => name.startsWith(prefix)))];
  }

  private value(index: number): string {
    const known = index < this.decodedSize ? this.decoded[index] : undefined;
    if (known !== undefined) return known;
    const text = lenientTextOf(this.bytes, this.spans[2 * index] as number, this.spans[2 * index + 1] as number);
    while (this.decodedSize <= index) this.decoded[this.decodedSize++] = undefined;
    this.decoded[index] = text;
    return text;
  }
}

const NO_VALUES: readonly string[] = [];
