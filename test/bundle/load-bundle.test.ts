/** Tests how policies are loaded from signed bundles and from folders. */

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { buildBundle } from "../../src/bundle/build.ts";
import { writeBundle } from "../../src/bundle/bundle-file.ts";
import { makeSigningKey } from "../../src/bundle/keys.ts";
import { type LoadResult, loadBytes, loadPolicy } from "../../src/bundle/load.ts";
import { PolicyLoader } from "../../src/bundle/loader.ts";
import { formatProblem } from "../../src/bundle/problem.ts";
import { signBundle } from "../../src/bundle/sign.ts";
import type { Trust } from "../../src/model/bundle.ts";

const NOW = Date.parse("2026-03-02T12:00:00Z");
const HOUR = 3_600_000;
const key = makeSigningKey("ops");
const stranger = makeSigningKey("stranger");
const trust: Trust = {
  root: { version: 1, threshold: 1, keys: [{ kid: key.kid, x: key.x, owner: "ops" }] },
  accepted: undefined,
};
const YAML = `apiVersion: sallyport.dev/v1
kind: Policy
metadata: { name: inner, revision: stated }
spec: { lists: { addresses: [{ name: l, file: list.txt }] } }
`;

async function bundle(
  revision: number,
  signer = key,
  files: Record<string, string> = {},
  name = "shop",
): Promise<Uint8Array> {
  const contents = Object.entries({ "policy.yaml": YAML, "list.txt": "192.0.2.0/24\n", ...files });
  const built = buildBundle({
    name,
    revision,
    issuedAtMs: NOW - HOUR,
    expiresAtMs: NOW + HOUR,
    policy: "policy.yaml",
    files: new Map(contents.map(([name, text]) => [name, Buffer.from(text)])),
    roots: [],
    rootVersion: 1,
  });
  return writeBundle(await signBundle(built, signer));
}

function said(result: LoadResult): string {
  return result.ok ? "loaded" : `${result.code} ${result.problems.map(formatProblem)[0]}`;
}

t.test("a bundle that verifies is a policy under the revision that was signed", async (t) => {
  const bytes = await bundle(42);
  const loader = new PolicyLoader();
  t.teardown(() => loader.close());
  const options = { trust, nowMs: NOW };
  for (const result of [
    await loadBytes("b", bytes, options),
    await loader.load({ kind: "bytes", label: "b", bytes }, options),
  ]) {
    t.ok(result.ok, said(result));
    if (!result.ok) continue;
    t.equal(result.policy.revision, "shop:42");
    t.equal(result.policy.addresses.lookup("192.0.2.7")?.list, "l");
    t.match(result.bundle, { name: "shop", revision: 42, expiresAtMs: NOW + HOUR });
    t.equal(result.trust?.accepted?.revision, 42);
  }
});

const REFUSED = [
  {
    name: "signed by a stranger",
    bytes: await bundle(1, stranger),
    options: { trust, nowMs: NOW },
    code: "ERR_BUNDLE_SIGNATURE",
  },
  {
    name: "past its time",
    bytes: await bundle(1),
    options: { trust, nowMs: NOW + 2 * HOUR },
    code: "ERR_BUNDLE_EXPIRED",
  },
  {
    name: "cut off",
    bytes: (await bundle(1)).subarray(0, 300),
    options: { trust, nowMs: NOW },
    code: "ERR_BUNDLE_INVALID",
  },
  { name: "no bundle at all", bytes: Buffer.from("x"), options: { trust, nowMs: NOW }, code: "ERR_BUNDLE_INVALID" },
  {
    name: "without keys to verify it with",
    bytes: await bundle(1),
    options: { nowMs: NOW },
    code: "ERR_BUNDLE_SIGNATURE",
  },
  {
    name: "with a wrong policy",
    bytes: await bundle(1, key, { "policy.yaml": "x" }),
    options: { trust, nowMs: NOW },
    code: "ERR_POLICY_INVALID",
  },
  {
    name: "with a wrong list",
    bytes: await bundle(1, key, { "list.txt": "x\n" }),
    options: { trust, nowMs: NOW },
    code: "ERR_POLICY_INVALID",
  },
];
for (const { name, bytes, options, code } of REFUSED) {
  t.test(`a bundle is refused: ${name}`, async (t) => {
    const result = await loadBytes("b", bytes, options);
    t.match(result, { ok: false, code }, said(result));
  });
}

t.test("an expired bundle is taken by who says so", async (t) => {
  const result = await loadBytes("b", await bundle(1), { trust, nowMs: NOW + 2 * HOUR, acceptExpired: true });
  t.ok(result.ok, said(result));
});

t.test("where keys are configured, an unsigned policy is refused", async (t) => {
  const folder = t.testdir({ "policy.yaml": YAML, "list.txt": "192.0.2.0/24\n" });
  for (const path of [folder, join(folder, "policy.yaml")]) {
    t.ok((await loadPolicy(path)).ok);
    const result = await loadPolicy(path, { trust });
    t.match(
      said(result),
      /^ERR_BUNDLE_SIGNATURE .*policy\.yaml: expected a signed bundle, because keys are configured/,
    );
  }
});

t.test("of a folder's bundles the highest revision that verifies is taken", async (t) => {
  const folder = t.testdir({ "policy.yaml": YAML });
  for (const [name, bytes] of [
    ["b.bundle", await bundle(9)],
    ["a.bundle", await bundle(10)],
    ["c.bundle", await bundle(11, stranger)],
    ["d.bundle", Buffer.from("x")],
  ] as const) {
    writeFileSync(join(folder, name), bytes);
  }
  const result = await loadPolicy(folder, { trust, nowMs: NOW });
  t.ok(result.ok, said(result));
  if (!result.ok) return;
  t.equal(result.policy.revision, "shop:10");
  t.same(result.files, [folder, join(folder, "a.bundle")]);
  t.match(result.warnings, [
    /^passed over: .*c\.bundle manifest: expected 1 of the 1 keys of root 1 to have signed, got 0/,
    /^passed over: .*d\.bundle: expected /,
    /policy\.yaml: passed over: it is not signed$/,
  ]);
});

t.test("an older bundle of a folder, past its time, is not worth a word", async (t) => {
  const folder = t.testdir({});
  writeFileSync(join(folder, "1.bundle"), await bundle(1));
  writeFileSync(join(folder, "2.bundle"), await bundle(2));
  const accepted = await loadPolicy(folder, { trust, nowMs: NOW });
  t.ok(accepted.ok, said(accepted));
  if (!accepted.ok) return;
  t.match(await loadPolicy(folder, { trust: accepted.trust, nowMs: NOW }), { ok: true, warnings: [] });
});

t.test("a name that is pinned is the only one taken", async (t) => {
  const folder = t.testdir({});
  writeFileSync(join(folder, "1.bundle"), await bundle(1));
  writeFileSync(join(folder, "2.bundle"), await bundle(2, key, {}, "bank"));
  const pinned = { trust, nowMs: NOW, bundleName: "shop" };
  t.match(await loadPolicy(folder, pinned), { ok: true, bundle: { name: "shop", revision: 1 }, warnings: [] });
  t.equal(
    said(await loadBytes("b", await bundle(2, key, {}, "bank"), pinned)),
    "ERR_BUNDLE_NAME b: expected bundle shop, got bundle bank",
  );
});

t.test("a refusal is one sentence", async (t) => {
  t.equal(
    said(await loadBytes("b", await bundle(1), { trust, nowMs: NOW + 2 * HOUR })),
    "ERR_BUNDLE_EXPIRED b: expected a bundle whose time is not over by this machine's clock, which says 2026-03-02T14:00:00.000Z, got one issued at 2026-03-02T11:00:00.000Z and expired at 2026-03-02T13:00:00.000Z",
  );
});
