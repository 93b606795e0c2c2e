/** Turns YAML into a message of the schema, strictly, reporting every mismatch with its place. */

import {
  create,
  type DescEnum,
  type DescField,
  type DescMessage,
  getOption,
  type MessageShape,
  ScalarType,
} from "@bufbuild/protobuf";
import { DurationSchema, TimestampSchema } from "@bufbuild/protobuf/wkt";
import { isMap, isScalar, isSeq, type Node, type Pair, type YAMLMap } from "yaml";
import { Form, form as formOption, plain as plainOption } from "../gen/sallyport/policy/v1/options_pb.ts";
import { checkForm } from "./forms.ts";
import { quote, suggest } from "./problem.ts";
import { DURATION_EXPECTED, MOMENT_EXPECTED, parseDuration, parseMoment } from "./scalars.ts";
import { memberPath, type Source } from "./source.ts";
import type { Tree } from "./tree.ts";

/**
 * Decodes a document. Values that do not fit are reported to `source` and left at their default, so that the rest can
 * still be checked; list entries keep their index.
 */
export function decode<Desc extends DescMessage>(schema: Desc, tree: Tree, source: Source): MessageShape<Desc> {
  const decoder: Decoder = { tree, source };
  // The schema's own descriptor drove the walk, so the plain object has the shape that it initialises from.
  return create(schema, decodeMessage(decoder, schema, tree.root, "", 0) as never) as MessageShape<Desc>;
}

interface Decoder {
  readonly tree: Tree;
  readonly source: Source;
}

type Plain = Record<string, unknown>;

/** Where a value stands, and the field that it is for. */
interface Slot {
  readonly path: string;
  readonly field: DescField;
  /** Where to point when there is no value at all. */
  readonly offset: number;
}

function decodeMessage(
  decoder: Decoder,
  schema: DescMessage,
  given: Node | null,
  path: string,
  offset: number,
): Plain | undefined {
  const { source } = decoder;
  const node = decoder.tree.resolve(given);
  if (node === undefined) return refused(source, path);
  source.note(path, startOf(node, offset), kindOf(node));
  if (!isMap(node)) return mismatch(source, path, "a mapping");
  const value: Plain = {};
  for (const { name, nameOffset, item } of entriesOf(decoder, node, path)) {
    const field = schema.fields.find((candidate) => candidate.jsonName === name);
    const memberAt = memberPath(path, name);
    if (field === undefined) {
      const known = schema.fields.map((candidate) => candidate.jsonName);
      const near = suggest(name, known);
      const expected = near === undefined ? `one of the keys ${known.join(", ")}` : "a known key";
      source.reportAt(nameOffset, memberAt, expected, quote(name), near);
      if (near !== undefined) source.excuse(memberPath(path, near));
      continue;
    }
    const slot: Slot = { path: memberAt, field, offset: nameOffset };
    const decoded = decodeField(decoder, slot, item);
    if (decoded === undefined) continue;
    if (field.oneof === undefined) value[field.localName] = decoded;
    else if (value[field.oneof.localName] === undefined)
      value[field.oneof.localName] = { case: field.localName, value: decoded };
    else {
      const others = field.oneof.fields.map((candidate) => candidate.jsonName).join(", ");
      source.reportAt(nameOffset, path, `only one of ${others}`, `a further one, ${quote(name)}`);
    }
  }
  return value;
}

function decodeField(decoder: Decoder, slot: Slot, given: Node | null): unknown {
  const { field, path, offset } = slot;
  if (field.fieldKind !== "list" && field.fieldKind !== "map") return decodeValue(decoder, slot, given);
  const { source } = decoder;
  const node = decoder.tree.resolve(given);
  if (node === undefined) return refused(source, path);
  source.note(path, startOf(node, offset), kindOf(node));
  if (field.fieldKind === "list") {
    if (!isSeq(node)) return mismatch(source, path, "a list");
    return node.items.map((item, index) => {
      const itemSlot = { field, path: `${path}[${index}]`, offset: startOf(node, offset) };
      return decodeValue(decoder, itemSlot, item as Node | null) ?? placeholder(field);
    });
  }
  if (!isMap(node)) return mismatch(source, path, "a mapping");
  const entries = entriesOf(decoder, node, path).map(({ name, nameOffset, item }) => {
    source.noteName(memberPath(path, name), nameOffset);
    const entrySlot = { field, path: memberPath(path, name), offset: nameOffset };
    return [name, decodeValue(decoder, entrySlot, item) ?? placeholder(field)] as const;
  });
  return Object.fromEntries(entries);
}

/** Keeps the place of a list entry that did not fit. */
function placeholder(field: DescField): unknown {
  const kind = field.fieldKind === "list" ? field.listKind : field.fieldKind === "map" ? field.mapKind : "scalar";
  return kind === "message" ? {} : kind === "enum" ? 0 : "";
}

/** One value: of a singular field, or an entry of a list or map. */
function decodeValue(decoder: Decoder, slot: Slot, given: Node | null): unknown {
  const { field, path, offset } = slot;
  const { source } = decoder;
  if (field.message !== undefined) {
    if (field.message.typeName === DurationSchema.typeName) return decodeDuration(decoder, slot, given);
    if (field.message.typeName === TimestampSchema.typeName) return decodeMoment(decoder, slot, given);
    return decodeMessage(decoder, field.message, given, path, offset);
  }
  const node = decoder.tree.resolve(given);
  if (node === undefined) return refused(source, path);
  source.note(path, startOf(node, offset), describe(node, isRedacted(field)));
  const value = isScalar(node) ? node.value : undefined;
  if (field.enum !== undefined) return decodeEnum(source, field.enum, path, value);
  switch (field.scalar) {
    case ScalarType.BOOL:
      return typeof value === "boolean" ? value : mismatch(source, path, "true or false");
    case ScalarType.UINT32:
      return Number.isInteger(value) && Number(value) >= 0 && Number(value) <= 0xffffffff
        ? value
        : mismatch(source, path, "a whole number");
    case ScalarType.DOUBLE:
      return Number.isFinite(value) ? value : mismatch(source, path, "a number");
    default: {
      const text = textOf(node, getOption(field, plainOption));
      if (text === undefined) return mismatch(source, path, "a text");
      const form = getOption(field, formOption);
      if (form === Form.CEL) source.noteText(path, text, startOf(node, offset), node?.range?.[1] ?? 0);
      const fault = text === "" ? undefined : checkForm(form, text);
      if (fault !== undefined) source.report(path, fault.expected, fault.got);
      return text;
    }
  }
}

function decodeEnum(source: Source, schema: DescEnum, path: string, value: unknown): number | undefined {
  const names = schema.values.filter(({ number }) => number !== 0).map(({ localName }) => localName.toLowerCase());
  const index = typeof value === "string" ? names.indexOf(value) : -1;
  if (index >= 0) return schema.values.filter(({ number }) => number !== 0)[index]!.number;
  const near = typeof value === "string" ? suggest(value, names) : undefined;
  source.report(path, names.length === 1 ? names[0]! : `one of ${names.join(", ")}`, undefined, near);
  return undefined;
}

function decodeDuration(decoder: Decoder, slot: Slot, given: Node | null): unknown {
  const ms = decodeForm(decoder, slot, given, DURATION_EXPECTED, parseDuration);
  return ms === undefined ? undefined : { seconds: BigInt(Math.floor(ms / 1_000)), nanos: (ms % 1_000) * 1_000_000 };
}

function decodeMoment(decoder: Decoder, slot: Slot, given: Node | null): unknown {
  const ms = decodeForm(decoder, slot, given, MOMENT_EXPECTED, parseMoment);
  if (ms === undefined) return undefined;
  const seconds = Math.floor(ms / 1_000);
  return { seconds: BigInt(seconds), nanos: (ms - seconds * 1_000) * 1_000_000 };
}

function decodeForm(
  { tree, source }: Decoder,
  { path, offset }: Slot,
  given: Node | null,
  expected: string,
  parse: (text: string) => number | undefined,
): number | undefined {
  const node = tree.resolve(given);
  if (node === undefined) return refused(source, path);
  source.note(path, startOf(node, offset), describe(node, false));
  const text = textOf(node, false);
  const value = text === undefined ? undefined : parse(text);
  return value ?? mismatch(source, path, expected);
}

/** The members of a mapping; keys that are no texts or come twice are reported and left out. */
function entriesOf({ source, tree }: Decoder, node: YAMLMap, path: string): readonly Member[] {
  const seen = new Set<string>();
  return (node.items as Pair<Node, Node | null>[]).flatMap(({ key, value }) => {
    const keyNode = tree.resolve(key) ?? null;
    const nameOffset = startOf(keyNode, startOf(node, 0));
    const name = textOf(keyNode, true);
    if (name === undefined || name === "__proto__") {
      source.reportAt(nameOffset, path, "keys that are names", describe(keyNode, false));
      return [];
    }
    if (seen.has(name)) {
      source.reportAt(nameOffset, memberPath(path, name), "each key once", `a second ${quote(name)}`);
      return [];
    }
    seen.add(name);
    return [{ name, nameOffset, item: value }];
  });
}

interface Member {
  readonly name: string;
  readonly nameOffset: number;
  readonly item: Node | null;
}

function mismatch(source: Source, path: string, expected: string): undefined {
  source.report(path, expected);
  source.refuse(path);
}

/** An alias that stands for nothing usable was reported when it was resolved. */
function refused(source: Source, path: string): undefined {
  source.refuse(path);
}

/** The text of a scalar; with `plain`, also of numbers and booleans, as they are written. */
function textOf(node: Node | null, plain: boolean): string | undefined {
  if (!isScalar(node)) return undefined;
  if (typeof node.value === "string") return node.value;
  return plain && (typeof node.value === "number" || typeof node.value === "boolean") ? node.source : undefined;
}

function startOf(node: Node | null, otherwise: number): number {
  return node?.range?.[0] ?? otherwise;
}

/** What stands where a mapping or a list belongs: its kind only, for it may be a secret in the wrong place. */
function kindOf(node: Node | null): string {
  if (isMap(node)) return "a mapping";
  if (isSeq(node)) return node.items.length === 1 ? "a list of 1" : `a list of ${node.items.length}`;
  if (!isScalar(node) || node.value === null) return "nothing";
  return typeof node.value === "string" ? "a text" : `a ${typeof node.value}`;
}

function describe(node: Node | null, redacted: boolean): string {
  if (!isScalar(node) || node.value === null) return kindOf(node);
  if (redacted) return `a value of ${(node.source ?? "").length} characters`;
  return typeof node.value === "string" ? quote(node.value) : quote(String(node.source)).slice(1, -1);
}

function isRedacted(field: DescField): boolean {
  return field.proto.options?.debugRedact === true;
}
