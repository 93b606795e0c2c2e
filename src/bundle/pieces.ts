/** A policy message in pieces, each of which is quick to read, and which together are the whole. */

import { create, type DescField, fromBinary, mergeFromBinary, toBinary } from "@bufbuild/protobuf";
import { type PolicyFile, PolicyFileSchema, type Spec, SpecSchema } from "../gen/sallyport/policy/v1/policy_pb.ts";
import { Words } from "./growing.ts";
import type { Steps } from "./steps.ts";

/** Messages one after another: merged in this order (https://protobuf.dev/programming-guides/encoding/#last-one-wins). */
export interface Pieces {
  readonly bytes: Uint8Array;
  /** Where each ends. */
  readonly ends: Uint32Array;
}

/** Entries of a list that go into one piece. */
const PIECE_ENTRIES = 16;

/** Cuts a message: a head without the lists that can grow, which are those of the spec and of its parts, then those. */
export function cut(policy: PolicyFile): Pieces {
  const tails: Uint8Array[] = [];
  const spec = policy.spec === undefined ? undefined : cutSpec(policy.spec, (piece) => tails.push(piece));
  const head = create(PolicyFileSchema, { ...policy, ...(spec === undefined ? {} : { spec }) });
  const pieces = [toBinary(PolicyFileSchema, head), ...tails];
  const ends = new Words();
  const bytes = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.byteLength, 0));
  let end = 0;
  for (const piece of pieces) {
    bytes.set(piece, end);
    end += piece.byteLength;
    ends.push(end);
  }
  return { bytes, ends: ends.pack() };
}

/** Puts a message together again, piece by piece. */
export function* join({ bytes, ends }: Pieces): Steps<PolicyFile> {
  const policy = fromBinary(PolicyFileSchema, bytes.subarray(0, ends[0]));
  for (let index = 1; index < ends.length; index++) {
    yield;
    mergeFromBinary(PolicyFileSchema, policy, bytes.subarray(ends[index - 1], ends[index]));
  }
  return policy;
}

function cutSpec(spec: Spec, tail: (piece: Uint8Array) => void): Spec {
  const head = { ...spec } as Record<string, unknown>;
  const emit = (part: object): void =>
    tail(toBinary(PolicyFileSchema, create(PolicyFileSchema, { spec: part as never })));
  for (const field of SpecSchema.fields) {
    const value = head[field.localName];
    if (isList(field)) {
      for (const entries of inPieces(value as readonly unknown[])) emit({ [field.localName]: entries });
      head[field.localName] = [];
    } else if (field.fieldKind === "message" && value !== undefined) {
      const part = { ...(value as object) } as Record<string, unknown>;
      for (const inner of field.message.fields.filter(isList)) {
        const list = part[inner.localName] as readonly unknown[];
        for (const entries of inPieces(list)) emit({ [field.localName]: { [inner.localName]: entries } });
        part[inner.localName] = [];
      }
      head[field.localName] = part;
    }
  }
  return head as unknown as Spec;
}

function isList(field: DescField): boolean {
  return field.fieldKind === "list";
}

function* inPieces(list: readonly unknown[]): Generator<readonly unknown[]> {
  for (let at = 0; at < list.length; at += PIECE_ENTRIES) yield list.slice(at, at + PIECE_ENTRIES);
}
