/**
 * Usage: tsx scripts/sbom.ts [FILE]   Writes the bill of materials (CycloneDX 1.6) of what is shipped, to FILE or standard
 * output. SOURCE_DATE_EPOCH is the time it states; without it, none. The same lockfile and time make the same bytes.
 */

import { createHash } from "node:crypto";
import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import {
  type Lock,
  needsOf,
  type ProductionPackage,
  productionPackages,
  readLock,
} from "./image-contents/production.ts";
import { isRunPackage } from "./image-contents/pruning.ts";

/** https://cyclonedx.org/docs/1.6/json/, as far as it is used here; keys in the order in which they are written. */
export interface Bom {
  readonly $schema: string;
  readonly bomFormat: "CycloneDX";
  readonly specVersion: "1.6";
  readonly serialNumber: string;
  readonly version: number;
  readonly metadata: {
    readonly timestamp?: string;
    readonly lifecycles: readonly [{ readonly phase: "build" }];
    readonly tools: { readonly components: readonly Component[] };
    readonly component: Component;
  };
  readonly components: readonly Component[];
  readonly dependencies: readonly { readonly ref: string; readonly dependsOn: readonly string[] }[];
}

export interface Component {
  readonly type: "application" | "library" | "data";
  readonly "bom-ref"?: string;
  readonly group?: string;
  readonly name: string;
  readonly version: string;
  readonly scope?: "required" | "excluded";
  readonly hashes?: readonly Hash[];
  readonly licenses?: readonly License[];
  readonly purl?: string;
  readonly pedigree?: { readonly ancestors: readonly Component[]; readonly notes: string };
}

interface Hash {
  readonly alg: string;
  readonly content: string;
}

type License = { readonly license: { readonly id: string } } | { readonly expression: string };

/** The data set that dist/data/networks.bin is made from, by its place in the lockfile. */
const NETWORKS_SOURCE = "node_modules/@ip-location-db/asn";
const NETWORKS_REF = "networks.bin";

export interface BomOptions {
  /** Seconds since the Unix epoch; `undefined` states no time. */
  readonly seconds: number | undefined;
  /** Whether the package at this place is shipped; one that is not is listed with scope `excluded`. */
  readonly isRun: (place: string) => boolean;
}

/** @throws {Error} naming the package whose licence or hash the lockfile does not tell */
export function bom(lock: Lock, { seconds, isRun }: BomOptions): Bom {
  const packages = productionPackages(lock);
  const root = rootComponent(lock);
  const networks = networksComponent(lock);
  const refs = new Map(packages.map(({ place, name, version }) => [place, purlOf(name, version)]));
  const refsOf = (places: readonly string[]) => sortedSet(places.map((place) => refs.get(place) as string));

  const content = {
    metadata: {
      ...(seconds === undefined ? {} : { timestamp: timestampOf(seconds) }),
      lifecycles: [{ phase: "build" }] as const,
      tools: { components: [{ type: "application", name: "scripts/sbom.ts", version: lock.version }] as const },
      component: root,
    },
    components: [networks, ...merged(packages, refs, isRun)],
    dependencies: [
      { ref: root["bom-ref"] as string, dependsOn: [NETWORKS_REF, ...refsOf(needsOf(lock, ""))] },
      { ref: NETWORKS_REF, dependsOn: [] },
      ...sortedSet(refs.values()).map((ref) => ({
        ref,
        dependsOn: refsOf(packages.filter(({ place }) => refs.get(place) === ref).flatMap(({ needs }) => needs)),
      })),
    ],
  };
  return {
    $schema: "http://cyclonedx.org/schema/bom-1.6.schema.json",
    bomFormat: "CycloneDX",
    specVersion: "1.6",
    serialNumber: serialNumberOf(JSON.stringify(content)),
    version: 1,
    ...content,
  };
}

export function bomText(of: Bom): string {
  return `${JSON.stringify(of, null, 2)}\n`;
}

/** One component for each name and version, in however many places it is installed; sorted. */
function merged(
  packages: readonly ProductionPackage[],
  refs: ReadonlyMap<string, string>,
  isRun: (place: string) => boolean,
): readonly Component[] {
  return sortedSet(refs.values()).map((ref) => {
    const same = packages.filter(({ place }) => refs.get(place) === ref);
    const { name, version, license, integrity } = same[0] as ProductionPackage;
    return {
      type: "library" as const,
      "bom-ref": ref,
      ...nameParts(name),
      version,
      scope: same.some(({ place }) => isRun(place)) ? ("required" as const) : ("excluded" as const),
      hashes: hashesOf(integrity),
      licenses: [licenseOf(license)],
      purl: ref,
    };
  });
}

function rootComponent(lock: Lock): Component {
  const purl = purlOf(lock.name, lock.version);
  const license = lock.packages[""]?.license;
  return {
    type: "application",
    "bom-ref": purl,
    name: lock.name,
    version: lock.version,
    ...(license === undefined ? {} : { licenses: [licenseOf(license)] }),
    purl,
  };
}

/** Data counts as well: its source is a development dependency, what was made of it is shipped. */
function networksComponent(lock: Lock): Component {
  const source = lock.packages[NETWORKS_SOURCE];
  if (source?.integrity === undefined)
    throw new Error(`package-lock.json: expected ${NETWORKS_SOURCE} with its integrity`);
  const name = NETWORKS_SOURCE.slice("node_modules/".length);
  const licenses = [licenseOf("CC-BY-4.0")];
  return {
    type: "data",
    "bom-ref": NETWORKS_REF,
    name: "networks.bin",
    version: source.version,
    scope: "required",
    licenses,
    pedigree: {
      ancestors: [
        {
          type: "data",
          ...nameParts(name),
          version: source.version,
          hashes: hashesOf(source.integrity),
          licenses,
          purl: purlOf(name, source.version),
        },
      ],
      notes: "Names are left out, neighbouring ranges of one system are joined, IPv6 is cut to 64 bits; see NOTICE.",
    },
  };
}

/** https://github.com/package-url/purl-spec: the scope is the namespace, its `@` percent-encoded. */
function purlOf(name: string, version: string): string {
  return `pkg:npm/${name.replace("@", "%40")}@${version}`;
}

function nameParts(name: string): { readonly group?: string; readonly name: string } {
  const slash = name.indexOf("/");
  return slash < 0 ? { name } : { group: name.slice(0, slash), name: name.slice(slash + 1) };
}

const ALGORITHMS: Readonly<Record<string, string>> = {
  sha1: "SHA-1",
  sha256: "SHA-256",
  sha384: "SHA-384",
  sha512: "SHA-512",
};

/** Of `sha512-BASE64 …` as hexadecimal. */
function hashesOf(integrity: string): readonly Hash[] {
  return integrity.split(/\s+/).map((part) => {
    const dash = part.indexOf("-");
    const alg = ALGORITHMS[part.slice(0, dash)];
    if (alg === undefined)
      throw new Error(`package-lock.json: expected an integrity by ${Object.keys(ALGORITHMS)}, got ${part}`);
    return { alg, content: Buffer.from(part.slice(dash + 1), "base64").toString("hex") };
  });
}

/** A single SPDX identifier by itself, everything else as an expression. */
function licenseOf(license: string): License {
  return /^[\w.+-]+$/.test(license)
    ? { license: { id: license } }
    : { expression: license.replace(/^\((.*)\)$/, "$1") };
}

function timestampOf(seconds: number): string {
  return new Date(seconds * 1_000).toISOString().replace(".000Z", "Z");
}

/** A name made of the content (RFC 9562, section 5.8), so that the same content has the same one. */
function serialNumberOf(content: string): string {
  const hex = [...createHash("sha256").update(content).digest("hex").slice(0, 32)];
  hex[12] = "8";
  hex[16] = "89ab"[Number.parseInt(hex[16] as string, 16) % 4] as string;
  return `urn:uuid:${hex.join("").replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5")}`;
}

function sortedSet(values: Iterable<string>): readonly string[] {
  return [...new Set(values)].sort();
}

/**
 * The time that reproducible builds state (https://reproducible-builds.org/specs/source-date-epoch/).
 * @returns seconds since the Unix epoch, or `undefined` where it is not set
 * @throws {Error} for anything but a whole number that a tar archive can hold
 */
export function sourceDateEpoch(environment: NodeJS.ProcessEnv): number | undefined {
  const text = environment.SOURCE_DATE_EPOCH;
  if (text === undefined || text === "") return undefined;
  if (!/^\d{1,10}$/.test(text))
    throw new Error(`SOURCE_DATE_EPOCH: expected whole seconds since 1970, got ${JSON.stringify(text)}`);
  return Number(text);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    const lock = readLock(fileURLToPath(new URL("..", import.meta.url)));
    const text = bomText(bom(lock, { seconds: sourceDateEpoch(process.env), isRun: isRunPackage }));
    const [path] = process.argv.slice(2);
    if (path === undefined) process.stdout.write(text);
    else writeFileSync(path, text);
  } catch (error) {
    console.error((error as Error).message); // fails closed: no bill is better than half a one
    process.exitCode = 1;
  }
}
