/** Tests key files, state files, and what a verifier goes on from. */

import t from "tap";
import {
  makeSigningKey,
  readPublicKey,
  readSigningKey,
  writePublicKey,
  writeSigningKey,
} from "../../src/bundle/keys.ts";
import {
  parseTrustRoot,
  readRootPayload,
  readTrust,
  sameRoot,
  thumbprint,
  trustFor,
  writeRootPayload,
  writeTrustRoot,
} from "../../src/bundle/trust.ts";
import { writeTrust } from "../../src/bundle/trust-text.ts";
import type { BundleFacts } from "../../src/model/bundle.ts";
import { alice, bob, carol, rootOf } from "../support/bundles.ts";

t.test("the thumbprint is that of RFC 8037, appendix A.3", async (t) => {
  t.equal(thumbprint("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
});

const root = rootOf(1, 2, [alice, bob]);

t.test("key files, roots and states read back as they were written", async (t) => {
  t.same(parseTrustRoot(writeTrustRoot(root), "k"), root);
  t.same(readRootPayload(writeRootPayload(root)), root);
  const restarting = { ...root, version: 2, restartsRevisions: true } as const;
  t.same(readRootPayload(writeRootPayload(restarting)), restarting);
  const accepted = { name: "shop", revision: 3, digest: "0".repeat(64), issuedAtMs: 1, expiresAtMs: 2 };
  const trust = { root: restarting, accepted, anchor: "1".repeat(64) };
  t.same(readTrust(writeTrust(trust), "s"), trust);
  t.match(readTrust(writeTrust({ root, accepted: undefined }), "s"), { root, accepted: undefined });
});

const change = (edit: (json: Record<string, unknown> & { keys: Record<string, unknown>[] }) => void): string => {
  const json = JSON.parse(writeTrustRoot(root)) as Record<string, unknown> & { keys: Record<string, unknown>[] };
  edit(json);
  return JSON.stringify(json, undefined, 2);
};
const bad = [
  { name: "no JSON", text: "{", says: /^k:1:\d+/ },
  { name: "no keys", text: change((json) => (json.keys = [])), says: /keys: expected/ },
  { name: "a threshold of 0", text: change((json) => (json.threshold = 0)), says: /threshold: expected/ },
  {
    name: "a threshold beyond the keys",
    text: change((json) => (json.threshold = 3)),
    says: /at most the 2 keys, got 3/,
  },
  { name: "a key twice", text: change((json) => (json.keys[1] = json.keys[0]!)), says: /got it twice/ },
  { name: "a kid of another key", text: change((json) => (json.keys[0]!.kid = bob.kid)), says: /the thumbprint of x/ },
  { name: "an x that is no key", text: change((json) => (json.keys[0]!.x = `${"A".repeat(42)}B`)), says: /32 bytes/ },
  { name: "an unknown member", text: change((json) => (json.treshold = 1)), says: /did you mean "threshold"/ },
  { name: "a private key beside", text: change((json) => (json.keys[0]!.d = alice.d)), says: /keys\[0\]\.d/ },
];
for (const { name, text, says } of bad) {
  t.test(`a key file is refused with its place: ${name}`, async (t) => {
    t.throws(() => parseTrustRoot(text, "k"), { code: "ERR_KEY_INVALID", message: says });
  });
}

t.test("a torn, foreign or changed state is refused", async (t) => {
  const text = writeTrust({ root, accepted: undefined });
  for (const state of ["", text.slice(0, -5), "{}", "[]", text.replace('"threshold": 2', '"threshold": 9')]) {
    t.throws(() => readTrust(state, "s"), { code: "ERR_STATE_INVALID" });
  }
  const accepted = { name: "shop", revision: 0, digest: "0".repeat(64), issuedAtMs: 1, expiresAtMs: 2 };
  t.throws(() => readTrust(writeTrust({ root, accepted }), "s"), { code: "ERR_STATE_INVALID" });
});

t.test("two roots are the same by version, threshold and keys, whatever their order and owners", async (t) => {
  t.ok(sameRoot(root, rootOf(1, 2, [{ ...bob, owner: "Robert" }, alice])));
  t.notOk(sameRoot(root, rootOf(2, 2, [alice, bob])));
  t.notOk(sameRoot(root, rootOf(1, 1, [alice, bob])));
  t.notOk(sameRoot(root, rootOf(1, 2, [alice, carol])));
});

t.test("memory goes on under the key file that it began with; another key file begins anew", async (t) => {
  const accepted: BundleFacts = { name: "shop", revision: 9, digest: "0".repeat(64), issuedAtMs: 1, expiresAtMs: 2 };
  const first = trustFor(root, undefined);
  t.same(first.accepted, undefined);
  const walked = { ...first, root: rootOf(3, 1, [carol, bob]), accepted };
  t.same(trustFor(root, readTrust(writeTrust(walked), "s")), walked, "the same key file: the walked root stays");
  const shared = rootOf(1, 1, [carol]);
  t.match(trustFor(shared, walked), { root: shared, accepted }, "a key in common: older bundles are still held back");
  const apart = rootOf(1, 1, [alice]);
  t.match(trustFor(apart, walked), { root: apart, accepted: undefined }, "no key in common: nothing old can come back");
});

t.test("signing keys read back; private and public ones are not taken for each other", async (t) => {
  const key = makeSigningKey("dora");
  t.same(readSigningKey(writeSigningKey(key), "k"), key);
  const { d, ...open } = key;
  t.same(readPublicKey(writePublicKey(key), "k"), open);
  t.notMatch(writePublicKey(key), d);
  t.throws(() => readPublicKey(writeSigningKey(key), "k"), { code: "ERR_KEY_INVALID", message: /a private one/ });
  t.throws(() => readSigningKey(writePublicKey(key), "k"), { code: "ERR_KEY_INVALID", message: /a public one/ });
  const texts = [
    "not JSON but dozens of secret bytes",
    writeSigningKey({ ...key, d: alice.d }),
    writeSigningKey({ ...key, kid: alice.kid }),
    writeSigningKey(key).replace("Ed25519", "X25519"),
  ];
  for (const text of texts) {
    try {
      readSigningKey(text, "k");
      t.fail("expected a refusal");
    } catch (error) {
      t.match(error, { code: "ERR_KEY_INVALID" });
      t.notMatch(String(error), /secret|nWGxne/, "the message holds nothing of the key");
      t.equal((error as Error).cause, undefined);
    }
  }
});
