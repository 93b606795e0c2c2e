/** `Accept-Signature` (RFC 9421, section 5.1): asks for a signature, and is read by the client helper. */

import { COVERED_MIN, SIGNATURE_TAG } from "./http-signature.ts";
import {
  type BareItem,
  type InnerList,
  type Item,
  parseDictionary,
  serialiseDictionary,
  serialiseItem,
  stringItem,
} from "./structured-fields.ts";

/** What one member of `Accept-Signature` asks for. */
export interface SignatureRequest {
  readonly label: string;
  readonly components: readonly Item[];
  readonly nonce: string | undefined;
  readonly tag: string | undefined;
  readonly keyId: string | undefined;
  readonly algorithm: string | undefined;
  /** Whether an expiry is asked for. */
  readonly expires: boolean;
}

export interface AcceptOptions {
  readonly nonce: string;
  /** Fields to cover beyond method, authority and path, in lower case; `content-digest` where there is a body. */
  readonly fields: readonly string[];
  readonly tag?: string;
  /** Asks for this key where only one may answer. */
  readonly keyId?: string | undefined;
}

/** The components that {@link acceptSignature} asks for, as {@link SignatureDemand.covered} has them. */
export function demandedComponents(fields: readonly string[]): readonly string[] {
  return [...new Set([...COVERED_MIN, ...fields.map((name) => serialiseItem(stringItem(name)))])];
}

/** One member, `sallyport`: covered components, and `created`, our nonce and our tag among the parameters. */
export function acceptSignature({ nonce, fields, tag, keyId }: AcceptOptions): string {
  const text = (value: string): BareItem => ({ kind: "string", value });
  const parameters = new Map<string, BareItem>([
    ["created", { kind: "boolean", value: true }],
    ["nonce", text(nonce)],
    ...(keyId === undefined ? [] : [["keyid", text(keyId)] as const]),
    ["tag", text(tag ?? SIGNATURE_TAG)],
  ]);
  const names = [...new Set(["@method", "@authority", "@path", ...fields])];
  const wanted: InnerList = { kind: "inner_list", items: names.map((name) => stringItem(name)), parameters };
  return serialiseDictionary(new Map([["sallyport", wanted]]));
}

/** @returns nothing for a field that is malformed or asks for no signature */
export function parseAcceptSignature(field: string): readonly SignatureRequest[] {
  const requests: SignatureRequest[] = [];
  for (const [label, member] of parseDictionary(field) ?? []) {
    if (member.kind !== "inner_list") continue;
    const text = (name: string): string | undefined => {
      const value = member.parameters.get(name);
      return value?.kind === "string" ? value.value : undefined;
    };
    requests.push({
      label,
      components: member.items,
      nonce: text("nonce"),
      tag: text("tag"),
      keyId: text("keyid"),
      algorithm: text("alg"),
      expires: member.parameters.has("expires"),
    });
  }
  return requests;
}
