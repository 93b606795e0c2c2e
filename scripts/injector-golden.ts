/** Usage: tsx scripts/injector-golden.ts [--check]   Writes test/injector/golden from test/injector/cases; with --check compares. */

import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { stringify } from "yaml";
import { bootstrapOf } from "../src/injector/bootstrap.ts";
import { injectPod, parseInjectorConfig } from "../src/injector/injection.ts";
import { changeManifests } from "../src/injector/manifests.ts";
import { applyPatch } from "../src/injector/patch.ts";

const ROOT = fileURLToPath(new URL("../test/injector", import.meta.url));
const CASES = join(ROOT, "cases");
const GOLDEN = join(ROOT, "golden");

/** What a case is injected by unless it begins with its own. */
const CONFIG = `apiVersion: sallyport.dev/v1
kind: InjectorConfig
image: {repository: ghcr.io/sallyport/sallyport, tag: "0.1.0"}
`;

/** Files of the folder by name, as they have to be. */
export function goldenFiles(): ReadonlyMap<string, string> {
  const files = new Map<string, string>();
  for (const name of readdirSync(CASES).filter((file) => file.endsWith(".yaml"))) {
    files.set(name, goldenOf(name, readFileSync(join(CASES, name), "utf8")));
  }
  const app = { port: 8080, protocol: "http1" } as const;
  const tls = "envoy: {tls: {secret: orders-tls, clientPrefix: 'spiffe://shop.example/'}}\n";
  files.set(
    "bootstrap-plain.yaml",
    stringify(bootstrapOf(parseInjectorConfig(CONFIG, "plain"), app), { lineWidth: 0 }),
  );
  files.set(
    "bootstrap-tls.yaml",
    stringify(bootstrapOf(parseInjectorConfig(CONFIG + tls, "tls"), app), { lineWidth: 0 }),
  );
  return files;
}

function goldenOf(name: string, text: string): string {
  const [first, ...rest] = text.split(/^---\n/m);
  const isConfigured = first!.includes("kind: InjectorConfig");
  const config = parseInjectorConfig(isConfigured ? first! : CONFIG, name);
  const manifests = isConfigured ? rest.join("---\n") : text;
  const changed = changeManifests(manifests, name, (pod, namespace) => {
    const injection = injectPod(pod, config, { namespace, nativeSidecars: true });
    if (injection.kind !== "injected") return injection;
    return { kind: "changed", pod: applyPatch(pod, injection.patch), warnings: injection.warnings };
  });
  if (!changed.ok) throw new Error(changed.problems.join("\n"));
  const told = changed.told.flatMap(({ object, kind, why, warnings }) => [
    `# ${object}: ${kind}${why === "" ? "" : `: ${why}`}`,
    ...warnings.map((warning) => `#   warning: ${warning}`),
  ]);
  // Bootstraps have golden files of their own, in which they can be read.
  return `${told.join("\n")}\n${changed.text.replace(/^( *- )'\{"admin".*'$/gm, "$1(the bootstrap)")}`;
}

/** Names of files that would change, come or go. */
export function staleGoldenFiles(): readonly string[] {
  const wanted = goldenFiles();
  const found = readdirSync(GOLDEN);
  const changed = [...wanted]
    .filter(([name, text]) => !found.includes(name) || read(name) !== text)
    .map(([name]) => name);
  return [...changed, ...found.filter((name) => !wanted.has(name))].sort();
}

function read(name: string): string {
  return readFileSync(join(GOLDEN, name), "utf8");
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (process.argv.includes("--check")) {
    const stale = staleGoldenFiles();
    for (const name of stale) console.error(`test/injector/golden/${name} is not what is injected`);
    process.exitCode = stale.length > 0 ? 1 : 0;
  } else {
    mkdirSync(GOLDEN, { recursive: true });
    for (const name of readdirSync(GOLDEN)) rmSync(join(GOLDEN, name));
    for (const [name, text] of goldenFiles()) writeFileSync(join(GOLDEN, name), text);
  }
}
