/** Tests `sallyport bundle` as its users run it: as a process, and as the page on bundles shows it. */

import { execFile } from "node:child_process";
import { chmod, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import t from "tap";
import { runCommand } from "../../scripts/demo/sidecar.ts";
import { writeTrust } from "../../src/bundle/trust-text.ts";
import { trustFrom } from "../../src/cli/trust.ts";
import { command } from "../support/command.ts";

const MAIN = fileURLToPath(new URL("../../dist/main.js", import.meta.url));
const PAGE = fileURLToPath(new URL("../../docs/bundles.md", import.meta.url));
const folder = await mkdtemp(join(tmpdir(), "sallyport-bundle-"));
t.teardown(() => rm(folder, { recursive: true, force: true }));
const at = (name: string): string => join(folder, name);

const HEAD = "apiVersion: sallyport.dev/v1\nkind: Policy\nmetadata: { name: shop }\n";
const LISTED = `${HEAD}spec: { lists: { addresses: [{ name: bad, file: lists/bad.txt }] } }\n`;

t.test("every command of the page on bundles runs, in the order of the page", async (t) => {
  const own = t.testdir({});
  await writeFile(join(own, "sallyport"), `#!/bin/sh\nexec "${process.execPath}" "${MAIN}" "$@"\n`);
  await chmod(join(own, "sallyport"), 0o755);
  const blocks = [...(await readFile(PAGE, "utf8")).matchAll(/^```sh\n([\s\S]*?)^```$/gm)].map((match) => match[1]!);
  t.ok(blocks.length >= 6);
  const { stdout } = await promisify(execFile)("sh", ["-euc", blocks.join("\n")], {
    cwd: own,
    env: { ...process.env, PATH: `${own}${delimiter}${process.env.PATH ?? ""}` },
  });
  t.match(stdout, /shop-1\.bundle: good\. shop revision 1, /);
  t.match(stdout, /team\.bundle: good\. team revision 1, .* signed by alice \(\S+\), bob \(/);
  t.match(stdout, /it still lacks 1 signature/);
  t.match(stdout, /shop-4\.bundle: good\. shop revision 4/);
});

await command(["bundle", "keygen", "--out", at("a.key"), "--owner", "alice"]);
await command(["bundle", "keygen", "--out", at("b.key"), "--owner", "bob"]);
await command(["bundle", "root", "--key", at("a.key.pub"), "--out", at("shop.keys")]);
await writeFile(at("policy.yaml"), `${HEAD}spec: {}\n`);
const build = (file: string, revision: string, ...more: string[]) =>
  command([
    ...["bundle", "build", at("policy.yaml"), "--name", "shop", "--revision", revision],
    ...["--expires", "30d", "--out", at(file), ...more],
  ]);
await build("1.bundle", "1", "--sign-with", at("a.key"));
await build("2.bundle", "2", "--sign-with", at("a.key"));

t.test("a private key is for its owner alone, is shown nowhere and never written over", async (t) => {
  const { d } = JSON.parse(await readFile(at("a.key"), "utf8")) as { d: string };
  t.equal((await stat(at("a.key"))).mode & 0o777, 0o600);
  t.notMatch(await readFile(at("a.key.pub"), "utf8"), d);
  const again = await runCommand(["bundle", "keygen", "--out", at("a.key")]);
  t.match(again, { code: 1, err: /got a file that is there already \(ERR_STATE_UNWRITABLE\)/ });
  const signed = await runCommand([
    "bundle",
    "build",
    at("policy.yaml"),
    "--name",
    "shop",
    "--revision",
    "1",
    "--expires",
    "1d",
    "--out",
    at("x.bundle"),
    "--sign-with",
    at("a.key"),
    "--output",
    "json",
  ]);
  t.match(signed, { code: 0 });
  t.notMatch(`${signed.out}${signed.err}${await readFile(at("x.bundle"), "latin1")}`, d);
  t.match(await command(["bundle", "root", "--key", at("a.key"), "--out", at("y")]), {
    code: 1,
    err: /take the \.pub file/,
  });
});

t.test("the same inputs give the same bytes, by flag and by SOURCE_DATE_EPOCH", async (t) => {
  const inputs = [
    "bundle",
    "build",
    at("policy.yaml"),
    "--name",
    "shop",
    "--revision",
    "7",
    "--expires",
    "30d",
    "--sign-with",
    at("a.key"),
    "--out",
  ];
  await command([...inputs, at("r1.bundle"), "--issued", "2026-03-01T00:00:00Z"]);
  await command([...inputs, at("r2.bundle")], { SOURCE_DATE_EPOCH: "1772323200" });
  t.same(await readFile(at("r1.bundle")), await readFile(at("r2.bundle")));
});

t.test("all problems of a policy are told, and nothing is written", async (t) => {
  const own = t.testdir({ "policy.yaml": LISTED, "bad.yaml": `${HEAD}spec: { mode: obsrve, rulez: [] }\n`, lists: {} });
  const run = (policy: string) =>
    command([
      "bundle",
      "build",
      join(own, policy),
      "--name",
      "shop",
      "--revision",
      "1",
      "--expires",
      "1d",
      "--out",
      join(own, "o.bundle"),
    ]);
  t.match(await run("bad.yaml"), { code: 1, err: /spec\.mode[\s\S]*spec\.rulez/ });
  t.match(await run("policy.yaml"), { code: 1, err: /lists\/bad\.txt: .*no such file/ });
  await writeFile(join(own, "lists/bad.txt"), "not an address\n");
  t.match(await run("policy.yaml"), { code: 1, err: /lists\/bad\.txt:1/ });
  await writeFile(join(own, "outside.yaml"), LISTED.replace("lists/bad", "../bad"));
  t.match(await run("outside.yaml"), { code: 1, err: /does not leave the policy's folder/ });
  t.match(await run("none.yaml"), { code: 1, err: /no such file/ });
  await t.rejects(stat(join(own, "o.bundle")), { code: "ENOENT" });
});

t.test("files come out of a bundle byte for byte, and back again under a new revision", async (t) => {
  const own = t.testdir({ "policy.yaml": LISTED, lists: { "bad.txt": "192.0.2.0/24\n198.51.100.7 3\n" } });
  const first = join(own, "1.bundle");
  const common = ["--expires", "1d", "--sign-with", at("a.key")];
  t.match(
    await command([
      "bundle",
      "build",
      join(own, "policy.yaml"),
      "--name",
      "shop",
      "--revision",
      "1",
      "--out",
      first,
      ...common,
    ]),
    { code: 0 },
  );
  t.match(await runCommand(["bundle", "inspect", first, "--file", "lists/bad.txt"]), {
    code: 0,
    out: "192.0.2.0/24\n198.51.100.7 3\n",
    err: /NOT VERIFIED/,
  });
  t.match(await command(["bundle", "inspect", first, "--file", "none"]), {
    code: 1,
    err: /expected one of lists\/bad\.txt, policy\.yaml/,
  });
  const back = join(own, "9.bundle");
  t.match(await command(["bundle", "build", "--from", first, "--revision", "9", "--out", back, ...common]), {
    code: 0,
  });
  const inspect = async (file: string) =>
    JSON.parse(
      (await command(["bundle", "inspect", file, "--keys", at("shop.keys"), "--output", "json"])).out,
    ) as Record<string, unknown>;
  const [before, after] = [await inspect(first), await inspect(back)];
  t.match(after, {
    verified: true,
    fault: null,
    name: "shop",
    revision: 9,
    signatures: [{ owner: "alice", counts: true }],
  });
  t.same(after.files, before.files);
});

t.test("verify: good, wrongly signed, unsigned, older, damaged, missing", async (t) => {
  await build("bob.bundle", "3", "--sign-with", at("b.key"));
  await build("none.bundle", "3");
  await writeFile(at("cut.bundle"), (await readFile(at("2.bundle"))).subarray(0, -9));
  const keys = ["--keys", at("shop.keys")];
  const verify = (file: string, ...more: string[]) => command(["bundle", "verify", at(file), ...more]);
  t.match(await verify("2.bundle", ...keys), { code: 0, out: /good\. shop revision 2/, err: "" });
  t.match(await command(["bundle", "verify", at("2.bundle")], { SALLYPORT_BUNDLE_KEYS: at("shop.keys") }), { code: 0 });
  t.match(JSON.parse((await verify("2.bundle", ...keys, "--output", "json")).out), {
    ok: true,
    revision: 2,
    signed_by: [{ owner: "alice" }],
  });
  t.match(await verify("2.bundle", ...keys, "--name", "shop"), { code: 0 });
  t.match(await verify("2.bundle", ...keys, "--name", "bank"), {
    code: 1,
    err: /expected bundle bank, got bundle shop \(ERR_BUNDLE_NAME\)/,
  });
  t.match(await verify("bob.bundle", ...keys), { code: 1, err: /ERR_BUNDLE_SIGNATURE/ });
  t.match(await verify("none.bundle", ...keys), { code: 1, err: /nobody has signed it.*ERR_BUNDLE_SIGNATURE/ });
  t.match(await verify("cut.bundle", ...keys), { code: 1, err: /ERR_BUNDLE_INVALID/ });
  t.match(await verify("policy.yaml", ...keys), { code: 1, err: /ERR_BUNDLE_INVALID/ });
  t.match(await verify("missing", ...keys), { code: 1, err: /no such file/ });
  t.match(await verify("2.bundle"), { code: 2, err: /expected --keys/ });
  const { digest } = JSON.parse((await verify("2.bundle", ...keys, "--output", "json")).out) as { digest: string };
  const trust = (await trustFrom({ values: { "bundle-keys": at("shop.keys") } }, { environment: {} }))!;
  const accepted = { name: "shop", revision: 2, digest, issuedAtMs: 1, expiresAtMs: 2 };
  await writeFile(at("state.json"), writeTrust({ ...trust, accepted }));
  t.match(await verify("2.bundle", "--trust", at("state.json")), { code: 0 });
  t.match(await verify("1.bundle", "--trust", at("state.json")), { code: 1, err: /ERR_BUNDLE_ROLLBACK/ });
});

t.test("another file in a key file's place is named, and nothing of it is shown", async (t) => {
  const { d } = JSON.parse(await readFile(at("a.key"), "utf8")) as { d: string };
  await writeFile(at("chain"), `{"first":${await readFile(at("shop.keys"), "utf8")},"roots":[]}`);
  await writeFile(at("a.pem"), "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQ\n-----END PRIVATE KEY-----\n");
  await writeFile(at("empty"), '{"version":1,"threshold":1,"keys":[]}');
  for (const [file, err] of [
    ["chain", /: expected a key file, got a roots file; `bundle root --from ROOTS --keys-out FILE`/],
    ["a.key.pub", /: expected a key file, got a public key; `bundle root --key PUBLIC --out FILE`/],
    ["a.key", /: expected a key file, got a private signing key/],
    ["a.pem", /: expected a key file, got a private key/],
    ["empty", /keys: expected 1 entries or more/],
  ] as const) {
    const ran = await command(["bundle", "verify", at("2.bundle"), "--keys", at(file)]);
    t.match(ran, { code: 1, err });
    t.notMatch(ran.err, d);
    t.notMatch(ran.err, "MC4C");
  }
});

t.test("a private key that others can read is warned of", async (t) => {
  await writeFile(at("open.key"), await readFile(at("a.key")));
  await chmod(at("open.key"), 0o640);
  const ran = await build("open.bundle", "1", "--sign-with", at("open.key"));
  t.match(ran, { code: 0, err: /^warning: private key .*open\.key is open to others than its owner \(mode 0640\)/ });
  t.match(await build("open.bundle", "1", "--sign-with", at("a.key")), { code: 0, err: "" });
});

t.test("a bundle goes to NAME.bundle unless another place is named", async (t) => {
  const own = t.testdir({});
  const args = ["bundle", "build", at("policy.yaml"), "--name", "shop", "--revision", "1", "--expires", "1d"];
  await promisify(execFile)(process.execPath, [MAIN, ...args], { cwd: own });
  t.ok((await stat(join(own, "shop.bundle"))).isFile());
});

t.test("an expired bundle is refused with the times of both sides", async (t) => {
  await build("old.bundle", "1", "--sign-with", at("a.key"), "--issued", "2020-01-01T00:00:00Z");
  t.match(await command(["bundle", "verify", at("old.bundle"), "--keys", at("shop.keys")]), {
    code: 1,
    err: /issued at 2020-01-01T00:00:00.000Z and expired at 2020-01-31T00:00:00.000Z \(ERR_BUNDLE_EXPIRED\)/,
  });
});

t.test("inspect says loudly what was not verified, and believes no owner that only the bundle names", async (t) => {
  t.match(await command(["bundle", "inspect", at("2.bundle")]), {
    code: 0,
    out: /NOT VERIFIED\. shop revision 2/,
    err: /NOT VERIFIED: no keys/,
  });
  t.match(await command(["bundle", "inspect", at("bob.bundle"), "--keys", at("shop.keys")]), {
    code: 1,
    out: /NOT VERIFIED/,
    err: /ERR_BUNDLE_SIGNATURE/,
  });
  t.match(await command(["bundle", "inspect", at("2.bundle"), "--keys", at("shop.keys")]), {
    code: 0,
    out: /: verified\. [\s\S]*alice/,
    err: "",
  });
});

t.test("a key that will not count is warned of", async (t) => {
  await command([
    "bundle",
    "root",
    "--from",
    at("shop.keys"),
    "--key",
    at("b.key.pub"),
    "--sign-with",
    at("a.key"),
    "--sign-with",
    at("b.key"),
    "--out",
    at("shop.roots"),
  ]);
  t.match(await build("w.bundle", "4", "--roots", at("shop.roots"), "--sign-with", at("a.key")), {
    code: 0,
    err: /its signature will not count/,
  });
  t.match(await command(["bundle", "sign", at("w.bundle"), "--key", at("a.key"), "--key", at("b.key")]), {
    code: 0,
    err: /alice .* will not count/,
  });
  t.match(await command(["bundle", "verify", at("w.bundle"), "--keys", at("shop.keys")]), {
    code: 0,
    err: /warning: .*is not among/,
  });
});

const used = [
  { name: "no second word", args: [], err: /expected build, sign, verify, inspect, keygen, root, got nothing/ },
  { name: "a misspelt second word", args: ["bild"], err: /did you mean build\?/ },
  { name: "no --out", args: ["root", "--key", "p"], err: /^sallyport bundle root: expected --out FILE \(/ },
  { name: "nothing to sign", args: ["sign"], err: /^sallyport bundle sign: expected BUNDLE, got nothing/ },
  { name: "neither policy nor old bundle", args: ["build", "--out", "x"], err: /expected either POLICY or --from/ },
  { name: "no name", args: ["build", "p", "--out", "x"], err: /expected --name NAME/ },
  {
    name: "revision 0",
    args: ["build", "p", "--name", "a", "--out", "x", "--revision", "0"],
    err: /--revision: expected 1\.\./,
  },
  {
    name: "next after nothing",
    args: ["build", "p", "--name", "a", "--out", "x", "--revision", "next"],
    err: /--after OLD/,
  },
  {
    name: "a bad expiry",
    args: ["build", "p", "--name", "a", "--out", "x", "--revision", "1", "--expires", "soon"],
    err: /--expires: expected/,
  },
  {
    name: "a bad issue time",
    args: ["build", "p", "--name", "a", "--out", "x", "--revision", "1", "--expires", "1d", "--issued", "now"],
    err: /--issued: expected/,
  },
  { name: "a root of nobody", args: ["root", "--out", "x"], err: /--key PUBLIC at least once/ },
  { name: "a threshold of 0", args: ["root", "--out", "x", "--threshold", "0"], err: /--threshold: expected 1\.\.100/ },
  { name: "no key to sign with", args: ["sign", "x"], err: /expected --key KEY/ },
];
for (const { name, args, err } of used) {
  t.test(`not used rightly: ${name}`, async (t) => {
    t.match(await command(["bundle", ...args]), { code: 2, err });
  });
}

t.test("an empty name of a key file does not turn verification off", async (t) => {
  await t.rejects(trustFrom({ values: {} }, { environment: { SALLYPORT_BUNDLE_KEYS: "" } }), { code: "ERR_USAGE" });
  t.equal(await trustFrom({ values: {} }, { environment: {} }), undefined);
});
