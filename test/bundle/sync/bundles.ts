/** Signed bundles for tests of what takes them in. */

import { create } from "@bufbuild/protobuf";
import { buildBundle } from "../../../src/bundle/build.ts";
import { writeBundle } from "../../../src/bundle/bundle-file.ts";
import type { SigningKey } from "../../../src/bundle/jws.ts";
import { makeSigningKey } from "../../../src/bundle/keys.ts";
import { signBundle, signRoot, unsignedRoot } from "../../../src/bundle/sign.ts";
import { writeTrustRoot } from "../../../src/bundle/trust.ts";
import { BundleSchema } from "../../../src/gen/sallyport/bundle/v1/bundle_pb.ts";
import type { Trust, TrustRoot } from "../../../src/model/bundle.ts";

export const DAY_MS = 86_400_000;

export interface Signer {
  readonly key: SigningKey;
  readonly root: TrustRoot;
  readonly trust: Trust;
  /** Text of the key file that operators hand out. */
  readonly keyFile: string;
}

export function makeSigner(version = 1): Signer {
  const key = makeSigningKey("test");
  const root: TrustRoot = { version, threshold: 1, keys: [{ kid: key.kid, x: key.x, owner: key.owner }] };
  return { key, root, trust: { root, accepted: undefined }, keyFile: writeTrustRoot(root) };
}

export interface Made {
  readonly revision: number;
  readonly name?: string;
  /** The policy's `spec`; default: none. */
  readonly spec?: string;
  readonly issuedAtMs?: number;
  readonly expiresAtMs?: number;
  /** Signed roots that lead from the first one to the signer's. */
  readonly roots?: readonly string[];
  readonly text?: string;
}

/** The bytes of a bundle; its policy's name is `p` and the revision. */
export async function makeBundle(signer: Signer, made: Made): Promise<Uint8Array> {
  const { revision, name = "shop", spec = "{}", issuedAtMs = Date.now() - 60_000, roots = [] } = made;
  const text =
    made.text ?? `apiVersion: sallyport.dev/v1\nkind: Policy\nmetadata: { name: p${revision} }\nspec: ${spec}\n`;
  const built = buildBundle({
    name,
    revision,
    issuedAtMs,
    expiresAtMs: made.expiresAtMs ?? issuedAtMs + 30 * DAY_MS,
    policy: "policy.yaml",
    files: new Map([["policy.yaml", Buffer.from(text)]]),
    roots,
    rootVersion: signer.root.version,
  });
  return writeBundle(await signBundle(create(BundleSchema, built), signer.key));
}

/** The next root, signed by the keys of both. */
export async function rotate(from: Signer): Promise<{ readonly next: Signer; readonly root: string }> {
  const next = makeSigner(from.root.version + 1);
  const text = await signRoot(unsignedRoot(next.root), from.key);
  return { next, root: await signRoot(text, next.key) };
}
