import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { needsOf, productionPackages, readLock } from "../../scripts/image-contents/production.ts";
import { isRunPackage } from "../../scripts/image-contents/pruning.ts";
import { type Bom, bom, bomText, sourceDateEpoch } from "../../scripts/sbom.ts";
import { misfits } from "../support/json-schema.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const lock = readLock(ROOT);
const made = bom(lock, { seconds: 1_700_000_000, isRun: isRunPackage });

/** What https://cyclonedx.org/schema/bom-1.6.schema.json demands of the parts that are used; closed, so that a slip shows. */
const SCHEMA = {
  $defs: {
    component: {
      type: "object",
      additionalProperties: false,
      required: ["type", "name"],
      properties: {
        type: {
          enum: "application framework library container platform operating-system device device-driver firmware file machine-learning-model data cryptographic-asset".split(
            " ",
          ),
        },
        "bom-ref": { type: "string", minLength: 1 },
        group: { type: "string" },
        name: { type: "string", minLength: 1 },
        version: { type: "string", maxLength: 1024 },
        scope: { enum: ["required", "optional", "excluded"] },
        hashes: { type: "array", items: { $ref: "#/$defs/hash" } },
        licenses: {
          type: "array",
          items: {
            oneOf: [
              {
                type: "object",
                additionalProperties: false,
                required: ["license"],
                properties: {
                  license: {
                    type: "object",
                    additionalProperties: false,
                    required: ["id"],
                    properties: {
                      id: {
                        enum: "0BSD Apache-2.0 BlueOak-1.0.0 BSD-2-Clause BSD-3-Clause CC-BY-4.0 ISC MIT Unlicense".split(
                          " ",
                        ),
                      },
                    },
                  },
                },
              },
              {
                type: "object",
                additionalProperties: false,
                required: ["expression"],
                properties: { expression: { type: "string", pattern: "^[\\w.-]+( (AND|OR|WITH) [\\w.-]+)+$" } },
              },
            ],
          },
        },
        purl: { type: "string", pattern: "^pkg:npm/(%40[a-z0-9.-]+/)?[a-z0-9._-]+@[0-9][0-9a-z.+-]*$" },
        pedigree: {
          type: "object",
          additionalProperties: false,
          properties: { ancestors: { type: "array", items: { $ref: "#/$defs/component" } }, notes: { type: "string" } },
        },
      },
    },
    hash: {
      type: "object",
      additionalProperties: false,
      required: ["alg", "content"],
      properties: {
        alg: { enum: ["SHA-1", "SHA-256", "SHA-384", "SHA-512"] },
        content: { type: "string", pattern: "^([a-f0-9]{40}|[a-f0-9]{64}|[a-f0-9]{96}|[a-f0-9]{128})$" },
      },
    },
  },
  type: "object",
  additionalProperties: false,
  required: ["bomFormat", "specVersion", "serialNumber", "version", "metadata", "components", "dependencies"],
  properties: {
    $schema: { enum: ["http://cyclonedx.org/schema/bom-1.6.schema.json"] },
    bomFormat: { enum: ["CycloneDX"] },
    specVersion: { enum: ["1.6"] },
    serialNumber: {
      type: "string",
      pattern: "^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$",
    },
    version: { const: 1 },
    metadata: {
      type: "object",
      additionalProperties: false,
      required: ["lifecycles", "tools", "component"],
      properties: {
        timestamp: { type: "string", pattern: "^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\dZ$" },
        lifecycles: { type: "array", minItems: 1 },
        tools: { type: "object", required: ["components"] },
        component: { $ref: "#/$defs/component" },
      },
    },
    components: { type: "array", uniqueItems: true, items: { $ref: "#/$defs/component" } },
    dependencies: {
      type: "array",
      uniqueItems: true,
      items: {
        type: "object",
        additionalProperties: false,
        required: ["ref", "dependsOn"],
        properties: {
          ref: { type: "string" },
          dependsOn: { type: "array", uniqueItems: true, items: { type: "string" } },
        },
      },
    },
  },
};

t.test("the bill of materials fits CycloneDX 1.6", async (t) => {
  t.same(misfits(JSON.parse(bomText(made)), SCHEMA), []);
  const broken = { ...made, components: [{ ...made.components[1], hashes: [{ alg: "SHA-512", content: "zz" }] }] };
  t.not(misfits(JSON.parse(JSON.stringify(broken)), SCHEMA).length, 0, "and the schema can tell");
});

t.test("it lists every package that is installed without development dependencies, and no other", async (t) => {
  const listed = execFileSync("npm", ["ls", "--omit=dev", "--all", "--parseable", "--long", "--package-lock-only"], {
    cwd: ROOT,
    encoding: "utf8",
    env: { PATH: process.env.PATH, HOME: process.env.HOME },
  });
  const expected = new Set(
    listed
      .trimEnd()
      .split("\n")
      .slice(1)
      .map((line) => line.split(":")[1]),
  );
  const got = new Set(made.components.filter(({ type }) => type === "library").map(nameAndVersion));
  t.same([...got].sort(), [...expected].sort());
});

t.test("each component says what it is, by purl, licence and the hash that npm verifies", async (t) => {
  const pino = made.components.find(({ name }) => name === "pino");
  const pinoVersion = lock.packages["node_modules/pino"]?.version;
  t.match(pino, {
    type: "library",
    "bom-ref": `pkg:npm/pino@${pinoVersion}`,
    version: pinoVersion,
    scope: "required",
    licenses: [{ license: { id: "MIT" } }],
    purl: `pkg:npm/pino@${pinoVersion}`,
  });
  const integrity = lock.packages["node_modules/pino"]?.integrity ?? "";
  t.equal(integrity, `sha512-${Buffer.from(pino?.hashes?.[0]?.content ?? "", "hex").toString("base64")}`);
  const protobuf = made.components.find(({ group, name }) => group === "@bufbuild" && name === "protobuf");
  t.match(protobuf?.purl, /^pkg:npm\/%40bufbuild\/protobuf@\d/);
  t.same(protobuf?.licenses, [{ expression: "Apache-2.0 AND BSD-3-Clause" }]);
});

t.test("what is in the lockfile and not in the image is listed as excluded", async (t) => {
  const excluded = made.components.filter(({ scope }) => scope === "excluded").map(({ name }) => name);
  t.ok(excluded.includes("yargs") && excluded.includes("undici-types"));
  t.notOk(excluded.includes("undici") || excluded.includes("long"));
  const all = bom(lock, { seconds: undefined, isRun: () => true });
  t.same(
    all.components.filter(({ scope }) => scope !== "required"),
    [],
  );
});

t.test("data that is shipped is listed with the set that it was made from", async (t) => {
  t.match(made.components[0], {
    type: "data",
    name: "networks.bin",
    scope: "required",
    licenses: [{ license: { id: "CC-BY-4.0" } }],
    pedigree: { ancestors: [{ group: "@ip-location-db", name: "asn", hashes: [{ alg: "SHA-512" }] }] },
  });
});

t.test("every reference leads to a component, and everything is reached from the program", async (t) => {
  const known = new Set([
    made.metadata.component["bom-ref"],
    ...made.components.map((component) => component["bom-ref"]),
  ]);
  const needs = new Map(made.dependencies.map(({ ref, dependsOn }) => [ref, dependsOn]));
  t.same([...needs.keys()].sort(), [...known].sort());
  const reached = new Set<string>();
  const visit = (ref: string): void => {
    if (reached.has(ref)) return;
    reached.add(ref);
    for (const next of needs.get(ref) ?? []) visit(next);
  };
  visit(made.metadata.component["bom-ref"] ?? "");
  t.same([...reached].sort(), [...known].sort());
});

t.test("the same lockfile makes the same bytes; another makes another serial number", async (t) => {
  const again = bom(readLock(ROOT), { seconds: 1_700_000_000, isRun: isRunPackage });
  t.equal(bomText(again), bomText(made));
  const other: Bom = bom({ ...lock, version: "9.9.9" }, { seconds: 1_700_000_000, isRun: isRunPackage });
  t.not(other.serialNumber, made.serialNumber);
});

t.test("without a time it states none; with one, that one", async (t) => {
  t.equal(made.metadata.timestamp, "2023-11-14T22:13:20Z");
  t.notOk("timestamp" in bom(lock, { seconds: undefined, isRun: () => true }).metadata);
  t.equal(sourceDateEpoch({}), undefined);
  t.equal(sourceDateEpoch({ SOURCE_DATE_EPOCH: "0" }), 0);
  for (const bad of ["yesterday", "-1", "1.5", "99999999999"]) {
    t.throws(() => sourceDateEpoch({ SOURCE_DATE_EPOCH: bad }), /SOURCE_DATE_EPOCH/, bad);
  }
});

const entry = { version: "1.0.0", license: "MIT", integrity: "sha512-AAAA" };
t.test("a package asks for what Node would find from its place", async (t) => {
  const nested = {
    name: "p",
    version: "1.0.0",
    packages: {
      "": { version: "1.0.0", dependencies: { a: "1" } },
      "node_modules/a": { ...entry, dependencies: { b: "2" }, optionalDependencies: { "not-for-this-platform": "1" } },
      "node_modules/a/node_modules/b": { ...entry, version: "2.0.0", dependencies: { c: "1" } },
      "node_modules/b": entry,
      "node_modules/c": { ...entry, dev: true },
    },
  };
  t.same(needsOf(nested, "node_modules/a"), ["node_modules/a/node_modules/b"]);
  t.same(needsOf(nested, "node_modules/a/node_modules/b"), ["node_modules/c"]);
  t.same(
    productionPackages(nested).map(({ place, name }) => [place, name]),
    [
      ["node_modules/a", "a"],
      ["node_modules/a/node_modules/b", "b"],
      ["node_modules/b", "b"],
    ],
  );
});

const broken: readonly (readonly [what: string, change: Readonly<Record<string, unknown>>, message: RegExp])[] = [
  ["no licence", { license: undefined }, /node_modules\/a: license/],
  ["no hash", { integrity: undefined }, /node_modules\/a: integrity/],
  ["a need that is not locked", { dependencies: { z: "1" } }, /asks for z, which is not locked/],
];
for (const [what, change, message] of broken) {
  t.test(`a package with ${what} stops the bill`, async (t) => {
    const packages = { "": { version: "1.0.0" }, "node_modules/a": { ...entry, ...change } };
    t.throws(() => productionPackages({ name: "p", version: "1.0.0", packages } as never), message);
  });
}

t.test("the script prints what it would write", async (t) => {
  const out = execFileSync(process.execPath, ["--import=tsx", join(ROOT, "scripts/sbom.ts")], {
    cwd: ROOT,
    encoding: "utf8",
    env: { ...process.env, SOURCE_DATE_EPOCH: "1700000000" },
  });
  t.equal(out, bomText(made));
  const file = join(t.testdir(), "sbom.json");
  execFileSync(process.execPath, ["--import=tsx", join(ROOT, "scripts/sbom.ts"), file], {
    cwd: ROOT,
    env: { ...process.env, SOURCE_DATE_EPOCH: "1700000000" },
  });
  t.equal(readFileSync(file, "utf8"), bomText(made));
});

function nameAndVersion({ group, name, version }: Bom["components"][number]): string {
  return `${group === undefined ? "" : `${group}/`}${name}@${version}`;
}
