/** Keys, roots and signed bundles for tests. */

import { buildBundle } from "../../src/bundle/build.ts";
import type { SigningKey } from "../../src/bundle/jws.ts";
import { readSigningKey } from "../../src/bundle/keys.ts";
import { signBundle, signRoot, unsignedRoot } from "../../src/bundle/sign.ts";
import { thumbprint } from "../../src/bundle/trust.ts";
import type { Bundle } from "../../src/gen/sallyport/bundle/v1/bundle_pb.ts";
import type { TrustRoot } from "../../src/model/bundle.ts";

const key = (owner: string, d: string, x: string): SigningKey =>
  readSigningKey(JSON.stringify({ kty: "OKP", crv: "Ed25519", d, x, owner }), owner);

/** RFC 8037, appendix A.1: published, so good for nothing but tests. */
export const alice = key(
  "alice",
  "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
  "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
);
/** RFC 8032, section 7.1, tests 2 and 3. */
export const bob = key(
  "bob",
  Buffer.from("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb", "hex").toString("base64url"),
  Buffer.from("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "hex").toString("base64url"),
);
export const carol = key(
  "carol",
  Buffer.from("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7", "hex").toString("base64url"),
  Buffer.from("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025", "hex").toString("base64url"),
);

export function rootOf(version: number, threshold: number, keys: readonly SigningKey[]): TrustRoot {
  return { version, threshold, keys: keys.map(({ x, owner }) => ({ kid: thumbprint(x), x, owner })) };
}

export async function signedRoot(root: TrustRoot, by: readonly SigningKey[]): Promise<string> {
  let text = unsignedRoot(root);
  for (const one of by) text = await signRoot(text, one);
  return text;
}

/** Noon of the day on which test bundles are issued; they expire thirty days later. */
export const ISSUED_MS = Date.parse("2026-03-01T12:00:00Z");
export const DAY_MS = 86_400_000;

export interface TestBundle {
  readonly name?: string;
  readonly revision?: number;
  readonly files?: Readonly<Record<string, string | Uint8Array>>;
  readonly roots?: readonly string[];
  readonly rootVersion?: number;
  readonly issuedAtMs?: number;
  readonly by?: readonly SigningKey[];
}

export async function testBundle({
  name = "shop",
  revision = 1,
  files = { "policy.yaml": "policy" },
  roots = [],
  rootVersion = 1,
  issuedAtMs = ISSUED_MS,
  by = [alice],
}: TestBundle = {}): Promise<Bundle> {
  let bundle = buildBundle({
    name,
    revision,
    issuedAtMs,
    expiresAtMs: issuedAtMs + 30 * DAY_MS,
    policy: "policy.yaml",
    files: new Map(Object.entries(files).map(([file, content]) => [file, Buffer.from(content)])),
    roots,
    rootVersion,
  });
  for (const one of by) bundle = await signBundle(bundle, one);
  return bundle;
}
