/** Reads `google.protobuf.Struct` from the wire into the JSON that it stands for. */

import type { JsonObject, JsonValue } from "@bufbuild/protobuf";
import { readText, type WireCursor } from "./wire-cursor.ts";

/**
 * Adds to `json` the fields of a Struct up to `end`.
 * @param depth of that message
 */
export function readStruct(cursor: WireCursor, end: number, depth: number, json: Record<string, JsonValue>): void {
  while (cursor.at < end) {
    const field = cursor.field();
    if (field === 1) readEntry(cursor, depth, json);
    else cursor.skip(field, depth);
  }
}

function readEntry(cursor: WireCursor, depth: number, json: Record<string, JsonValue>): void {
  const length = cursor.uint32();
  const end = cursor.at + length;
  let key = "";
  let value: JsonValue = null;
  while (cursor.at < end) {
    // As in every map entry, what is neither key nor value is not skipped but read as the next tag.
    switch (cursor.field()) {
      case 1:
        key = readText(cursor);
        break;
      case 2:
        value = readValue(cursor, cursor.message(depth + 1), depth + 1);
        break;
    }
  }
  // An object of JSON has no such field of its own when it is written so.
  if (key !== "__proto__") json[key] = value;
}

/** `google.protobuf.Value`: the last kind counts, and messages of one kind become one. */
function readValue(cursor: WireCursor, end: number, depth: number): JsonValue {
  let value: JsonValue = null;
  let struct: JsonObject | undefined;
  let list: JsonValue[] | undefined;
  while (cursor.at < end) {
    const field = cursor.field();
    if (field < 1 || field > 6) {
      cursor.skip(field, depth);
      continue;
    }
    if (field !== 5) struct = undefined;
    if (field !== 6) list = undefined;
    switch (field) {
      case 1:
        cursor.uint32();
        value = null;
        break;
      case 2:
        value = cursor.double();
        break;
      case 3:
        value = readText(cursor);
        break;
      case 4:
        value = cursor.int64() !== 0;
        break;
      case 5:
        struct ??= {};
        readStruct(cursor, cursor.message(depth + 1), depth + 1, struct);
        value = struct;
        break;
      case 6:
        list ??= [];
        readList(cursor, cursor.message(depth + 1), depth + 1, list);
        value = list;
        break;
    }
  }
  return value;
}

function readList(cursor: WireCursor, end: number, depth: number, list: JsonValue[]): void {
  while (cursor.at < end) {
    const field = cursor.field();
    if (field === 1) list.push(readValue(cursor, cursor.message(depth + 1), depth + 1));
    else cursor.skip(field, depth);
  }
}
