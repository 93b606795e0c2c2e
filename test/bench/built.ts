/** Modules of src as they are shipped: what runs scripts from source costs time of its own. */

import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { bundled } from "../../scripts/bundle.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));

/**
 * Bundles modules as the build does and imports them; what they share, they share. The files lie in `dist/bench` until the
 * next build.
 * @param sources such as `check/line`
 * @returns the modules, in the order asked for
 */
export async function importBuilt(...sources: readonly string[]): Promise<readonly unknown[]> {
  const places = sources.map((source) => `bench/${source.replaceAll("/", "-")}`);
  const entries = sources.map((source, i) => [places[i] as string, `src/${source}.ts`] as const);
  for (const { path, bytes } of bundled(ROOT, Object.fromEntries(entries))) {
    mkdirSync(dirname(join(ROOT, path)), { recursive: true });
    writeFileSync(join(ROOT, path), bytes);
  }
  return Promise.all(places.map((place) => import(pathToFileURL(join(ROOT, `dist/${place}.js`)).href)));
}
