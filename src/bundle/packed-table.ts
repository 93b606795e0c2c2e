/**
 * Look-ups by exact text that travel between threads without being copied: all texts in one array, found over a hash
 * table of numbers. A hash only says where to look; the text itself is always compared.
 */

import type { Lookup } from "../model/policy.ts";
import { Words } from "./growing.ts";

/** Texts, numbered from 0 in the order in which they came. */
export interface PackedTexts {
  /** One element a UTF-16 unit: bytes where all texts allow it. */
  readonly units: Uint8Array | Uint16Array;
  /** Where each text ends in `units`. */
  readonly ends: Uint32Array;
}

/** Texts that are found by what they say. */
export interface PackedTable extends PackedTexts {
  /** Number of the text plus 1, or 0; the length is a power of two, and at least one place is free. */
  readonly slots: Uint32Array;
}

const UNITS_MIN = 256;

/** Gathers texts. */
export class TextsBuilder {
  private units: Uint16Array<ArrayBuffer> = new Uint16Array(UNITS_MIN);
  private length = 0;
  private widest = 0;
  protected readonly ends = new Words();

  get size(): number {
    return this.ends.length;
  }

  add(text: string): number {
    if (this.length + text.length > this.units.length) {
      const wider = new Uint16Array(Math.max(this.units.length * 2, this.length + text.length));
      wider.set(this.units);
      this.units = wider;
    }
    for (let index = 0; index < text.length; index++) {
      const unit = text.charCodeAt(index);
      this.units[this.length + index] = unit;
      this.widest |= unit;
    }
    this.length += text.length;
    this.ends.push(this.length);
    return this.ends.length - 1;
  }

  pack(): PackedTexts {
    const used = this.units.subarray(0, this.length);
    return { units: this.widest <= 0xff ? Uint8Array.from(used) : used.slice(), ends: this.ends.pack() };
  }

  protected says(number: number, text: string): boolean {
    return saysAt(this.units, number === 0 ? 0 : this.ends.at(number - 1), this.ends.at(number), text);
  }
}

/** Gathers texts, each once. */
export class TableBuilder extends TextsBuilder {
  private slots: Uint32Array<ArrayBuffer> = new Uint32Array(16);
  private readonly hashes = new Words();

  /** The text's number: a new one, or that which it has already. */
  override add(text: string): number {
    const hash = hashOf(text);
    let place = hash & (this.slots.length - 1);
    for (let number = this.slots[place]!; number !== 0; number = this.slots[place]!) {
      if (this.hashes.at(number - 1) === hash && this.says(number - 1, text)) return number - 1;
      place = (place + 1) & (this.slots.length - 1);
    }
    const number = super.add(text);
    this.hashes.push(hash);
    this.slots[place] = number + 1;
    if (this.size * 2 > this.slots.length) this.widen();
    return number;
  }

  override pack(): PackedTable {
    return { ...super.pack(), slots: this.slots };
  }

  private widen(): void {
    this.slots = new Uint32Array(this.slots.length * 2);
    for (let number = 0; number < this.size; number++) {
      let place = this.hashes.at(number) & (this.slots.length - 1);
      while (this.slots[place] !== 0) place = (place + 1) & (this.slots.length - 1);
      this.slots[place] = number + 1;
    }
  }
}

/** The text of a number. */
export function textAt({ units, ends }: PackedTexts, number: number): string {
  const start = number === 0 ? 0 : ends[number - 1]!;
  const end = ends[number]!;
  let text = "";
  // In pieces, because a call takes only so many arguments.
  for (let at = start; at < end; at += ARGUMENTS_MAX) {
    text += String.fromCharCode(...units.subarray(at, Math.min(end, at + ARGUMENTS_MAX)));
  }
  return text;
}

const ARGUMENTS_MAX = 4_096;

/** Values by text; `make` makes the value of a text's number when it is asked for. */
export class TextLookup<Value> implements Lookup<Value> {
  readonly size: number;
  private readonly table: PackedTable;
  private readonly make: (number: number) => Value;

  constructor(table: PackedTable, make: (number: number) => Value) {
    this.size = table.ends.length;
    this.table = table;
    this.make = make;
  }

  get(text: string): Value | undefined {
    if (this.size === 0) return undefined;
    const { units, ends, slots } = this.table;
    const mask = slots.length - 1;
    for (let place = hashOf(text) & mask; slots[place] !== 0; place = (place + 1) & mask) {
      const number = slots[place]! - 1;
      if (saysAt(units, number === 0 ? 0 : ends[number - 1]!, ends[number]!, text)) return this.make(number);
    }
    return undefined;
  }
}

function saysAt(units: Uint8Array | Uint16Array, start: number, end: number, text: string): boolean {
  if (end - start !== text.length) return false;
  for (let index = 0; index < text.length; index++) {
    if (units[start + index] !== text.charCodeAt(index)) return false;
  }
  return true;
}

/** FNV-1a over UTF-16 units, with its upper bits folded into the lower ones that choose the place. */
function hashOf(text: string): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < text.length; index++) hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193);
  return (hash ^ (hash >>> 15)) >>> 0;
}
