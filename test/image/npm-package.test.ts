import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { gatherTree } from "../../scripts/image-contents/tree.ts";
import { npmPackageOf } from "../../scripts/image-contents.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const { version, files } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as {
  readonly version: string;
  readonly files: readonly string[];
};
const folder = await mkdtemp(join(tmpdir(), "sallyport-npm-"));
t.teardown(() => rm(folder, { recursive: true, force: true }));
const INSTALL_MS_MAX = 100_000;

/** Without the loader hooks that the test runner gives its children. */
const quiet = (command: string, args: readonly string[], cwd = folder): string =>
  execFileSync("env", ["--unset=NODE_OPTIONS", command, ...args], {
    cwd,
    encoding: "utf8",
    timeout: INSTALL_MS_MAX,
    maxBuffer: 1 << 24,
    env: { PATH: process.env.PATH, HOME: folder, npm_config_update_notifier: "false" },
    stdio: ["ignore", "pipe", "pipe"],
  });

t.test("`npm pack` packs the program, the configurations and what a host wants, and nothing else", async (t) => {
  const [report] = JSON.parse(quiet("npm", ["pack", "--dry-run", "--json", "--ignore-scripts"], ROOT)) as readonly [
    { readonly files: readonly { readonly path: string }[] },
  ];
  const paths = report.files.map(({ path }) => path);
  for (const wanted of [
    "dist/main.js",
    "dist/client/client.d.ts",
    "dist/data/networks.bin",
    "envoy/http-mtls.yaml",
    "packaging/systemd/sallyport.service",
    "packaging/systemd/sallyport.yaml",
    "LICENSE",
    "NOTICE",
    "README.md",
    "package.json",
  ]) {
    t.ok(paths.includes(wanted), wanted);
  }
  const places = [...files, "package.json"];
  t.same(
    paths.filter((path) => !places.some((place) => path === place || path.startsWith(`${place}/`))),
    [],
  );
});

t.test("the self-contained package", async (t) => {
  const packed = npmPackageOf(gatherTree(ROOT, "npm", 1_700_000_000).files, 1_700_000_000);
  const file = join(folder, `sallyport-${version}.tgz`);
  writeFileSync(file, packed);
  const prefix = join(folder, "prefix");

  t.test("comes out the same each time", async (t) => {
    t.ok(Buffer.from(npmPackageOf(gatherTree(ROOT, "npm", 1_700_000_000).files, 1_700_000_000)).equals(packed));
    t.ok(packed.length < 6 * 1_048_576, `${packed.length} bytes`);
  });

  t.test("is installed by one command, without a registry, a cache or scripts", async (t) => {
    const flags = ["--offline", "--ignore-scripts", "--no-audit", "--no-fund", "--cache", join(folder, "empty-cache")];
    quiet("npm", ["install", "--global", "--prefix", prefix, ...flags, file]);
    const program = join(prefix, "bin/sallyport");
    t.equal(quiet(program, ["version"]), `sallyport ${version} (node ${process.versions.node})\n`);
    t.match(quiet(program, ["check", "--print-default"]), /^kind: Policy$/m);
    const installed = join(prefix, "lib/node_modules/sallyport");
    for (const place of ["packaging/systemd/sallyport.service", "envoy/http-mtls.yaml", "NOTICE", "sbom.cdx.json"]) {
      t.ok(existsSync(join(installed, place)), place);
    }
    t.equal(statSync(program).mode & 0o111, 0o111);
    t.match(readFileSync(join(installed, "README.md"), "utf8"), /^# Sallyport$/m);
    const library = 'import("sallyport/client").then((all) => console.log(typeof all.sallyportFetch))';
    writeFileSync(join(prefix, "lib/use.mjs"), library);
    t.match(
      quiet(process.execPath, [join(prefix, "lib/use.mjs")]),
      /^function\n$/,
      "the library for callers is in it too",
    );
  });

  t.test("goes as a whole", async (t) => {
    quiet("npm", ["uninstall", "--global", "--prefix", prefix, "sallyport"]);
    t.notOk(existsSync(join(prefix, "bin/sallyport")));
    t.notOk(existsSync(join(prefix, "lib/node_modules/sallyport")));
  });
});
