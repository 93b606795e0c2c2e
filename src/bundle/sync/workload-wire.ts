/**
 * `sallyport.control.v1.Workloads` written and read by hand: ten thousand pods at once would hold up a control plane, and the
 * requests of every sidecar, for seconds with the general code (`test/bench/workloads.ts`). `proto/` stays the source.
 */

import { BinaryReader, BinaryWriter, WireType } from "@bufbuild/protobuf/wire";

export interface WireKind {
  readonly principals: readonly string[];
  readonly facts: Readonly<Record<string, string>>;
}

export interface WirePod {
  readonly uid: string;
  readonly addresses: readonly string[];
  readonly facts: Readonly<Record<string, string>>;
  readonly shared: boolean;
}

export interface WireWorkloads {
  readonly kinds: readonly WireKind[];
  /** `kind` is a place among the kinds. */
  readonly put: readonly (WirePod & { readonly kind: number })[];
  readonly removed: readonly string[];
  readonly first: boolean;
  readonly last: boolean;
  readonly state: string;
}

/** The same with kinds and pods written already, each once. */
export interface WrittenWorkloads extends Omit<WireWorkloads, "kinds" | "put"> {
  readonly kinds: readonly Uint8Array[];
  readonly put: readonly { readonly pod: Uint8Array; readonly kind: number }[];
}

export function writeKind({ principals, facts }: WireKind): Uint8Array {
  const writer = new BinaryWriter();
  for (const principal of principals) text(writer, 1, principal);
  map(writer, 2, facts);
  return writer.finish();
}

/** Without its kind, which is another one in each message. */
export function writePod({ uid, addresses, facts, shared }: WirePod): Uint8Array {
  const writer = new BinaryWriter();
  text(writer, 1, uid);
  for (const address of addresses) text(writer, 3, address);
  map(writer, 4, facts);
  if (shared) writer.tag(5, WireType.Varint).bool(true);
  return writer.finish();
}

export function writeWorkloads({ kinds, put, removed, first, last, state }: WrittenWorkloads): Uint8Array {
  const writer = new BinaryWriter();
  for (const kind of kinds) writer.tag(1, WireType.LengthDelimited).bytes(kind);
  for (const { pod, kind } of put) {
    const place = new BinaryWriter().tag(2, WireType.Varint).uint32(kind).finish();
    writer
      .tag(2, WireType.LengthDelimited)
      .uint32(pod.length + place.length)
      .raw(pod)
      .raw(place);
  }
  for (const uid of removed) text(writer, 3, uid);
  if (first) writer.tag(4, WireType.Varint).bool(true);
  if (last) writer.tag(5, WireType.Varint).bool(true);
  if (state !== "") text(writer, 6, state);
  return writer.finish();
}

/**
 * Fields that are not known are skipped.
 * @param one gives one copy of a text: replicas and nodes repeat most of them
 * @throws {Error} of any kind when the bytes are no such message
 */
export function readWorkloads(bytes: Uint8Array, one: (text: string) => string): WireWorkloads {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const reader = new BinaryReader(buffer, decodeUtf8);
  const kinds: WireKind[] = [];
  const put: (WirePod & { kind: number })[] = [];
  const removed: string[] = [];
  let first = false;
  let last = false;
  let state = "";
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag();
    if (field === 1) kinds.push(readKind(reader, endOf(reader, type), one));
    else if (field === 2) put.push(readPod(reader, endOf(reader, type), one));
    else if (field === 3) removed.push(reader.string());
    else if (field === 4) first = reader.bool();
    else if (field === 5) last = reader.bool();
    else if (field === 6) state = reader.string();
    else reader.skip(type, field);
  }
  return { kinds, put, removed, first, last, state };
}

function readKind(reader: BinaryReader, end: number, one: (text: string) => string): WireKind {
  const principals: string[] = [];
  const facts: Record<string, string> = {};
  while (reader.pos < end) {
    const [field, type] = reader.tag();
    if (field === 1) principals.push(one(reader.string()));
    else if (field === 2) readEntry(reader, endOf(reader, type), facts, one);
    else reader.skip(type, field);
  }
  return { principals, facts };
}

function readPod(reader: BinaryReader, end: number, one: (text: string) => string): WirePod & { kind: number } {
  const addresses: string[] = [];
  const facts: Record<string, string> = {};
  let uid = "";
  let kind = 0;
  let shared = false;
  while (reader.pos < end) {
    const [field, type] = reader.tag();
    if (field === 1) uid = reader.string();
    else if (field === 2) kind = reader.uint32();
    else if (field === 3) addresses.push(reader.string());
    else if (field === 4) readEntry(reader, endOf(reader, type), facts, one);
    else if (field === 5) shared = reader.bool();
    else reader.skip(type, field);
  }
  return { uid, kind, addresses, facts, shared };
}

function readEntry(
  reader: BinaryReader,
  end: number,
  facts: Record<string, string>,
  one: (text: string) => string,
): void {
  let name = "";
  let value = "";
  while (reader.pos < end) {
    const [field, type] = reader.tag();
    if (field === 1) name = one(reader.string());
    else if (field === 2) value = one(reader.string());
    else reader.skip(type, field);
  }
  // Whoever names a fact so means no part of the object itself.
  if (name !== "__proto__") facts[name] = value;
}

/** Parts of a buffer are buffers: their own way is several times as fast for texts as short as these. */
function decodeUtf8(bytes: Uint8Array): string {
  return (bytes as Buffer).toString("utf8");
}

/** Where the embedded message that begins here ends. */
function endOf(reader: BinaryReader, type: WireType): number {
  if (type !== WireType.LengthDelimited) throw new RangeError(`expected an embedded message, got wire type ${type}`);
  const length = reader.uint32();
  const end = reader.pos + length;
  if (end > reader.len) throw new RangeError("the message is torn");
  return end;
}

function text(writer: BinaryWriter, field: number, value: string): void {
  writer.tag(field, WireType.LengthDelimited).string(value);
}

function map(writer: BinaryWriter, field: number, facts: Readonly<Record<string, string>>): void {
  for (const [name, value] of Object.entries(facts)) {
    writer.tag(field, WireType.LengthDelimited).fork();
    text(writer, 1, name);
    text(writer, 2, value);
    writer.join();
  }
}
