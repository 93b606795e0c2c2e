import { execFileSync } from "node:child_process";
import { cpSync, existsSync } from "node:fs";
import { join, posix } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { bundled } from "../../scripts/bundle.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const files = new Map(bundled(ROOT).map(({ path, bytes }) => [path, Buffer.from(bytes).toString()]));
const modules = [...files].filter(([path]) => path.endsWith(".js"));
const mapOf = (path: string) => JSON.parse(files.get(`${path}.map`) ?? "{}") as { readonly sources: readonly string[] };
/** What a module loads in any case, by its path. */
const loadedBy = (path: string): readonly string[] =>
  [...(files.get(path) ?? "").matchAll(/^(?:import|\} from|export \{.*\} from)\b[^"']*["'](\.[^"']+)["'];$/gm)].map(
    ([, to]) => posix.join(posix.dirname(path), to as string),
  );

t.test("the program starts where it is installed from, its thread where it is started from", async (t) => {
  for (const path of ["dist/main.js", "dist/client/client.js", "dist/parts/load-worker.js"]) {
    t.ok(files.has(path), path);
  }
  t.match(files.get("dist/main.js"), /^#!\/usr\/bin\/env node\n/);
});

t.test("what is found relative to a module is where the sources have it: one folder down", async (t) => {
  const relative = modules.filter(([, text]) => text.includes("import.meta.url"));
  t.ok(relative.length >= 3, "the manifest, the table of networks and the thread are found so");
  for (const [path] of relative) t.match(path, /^dist\/[^/]+\/[^/]+\.js$/);
});

t.test("every source that a command can load is in exactly one file", async (t) => {
  const places = modules.flatMap(([path]) =>
    mapOf(path).sources.map((source) => posix.join(posix.dirname(path), source)),
  );
  t.same(
    places.filter((place, i) => places.indexOf(place) !== i),
    [],
    "state of a module is there once",
  );
  t.same(
    places.filter((place) => !place.startsWith("src/") || !existsSync(join(ROOT, place))),
    [],
  );
  for (const source of ["src/check/line.ts", "src/cli/uninject.ts", "src/client/grpc.ts"])
    t.ok(places.includes(source));
});

t.test("packages stay where npm puts them: none is copied in", async (t) => {
  t.match(modules.map(([, text]) => text).join("\n"), /^import .*"@bufbuild\/protobuf";$/m);
  t.same(
    modules.flatMap(([path]) => mapOf(path).sources).filter((source) => source.includes("node_modules")),
    [],
  );
});

t.test("a sidecar loads no command's code but its own", async (t) => {
  const serve = modules.map(([path]) => path).find((path) => path.startsWith("dist/parts/serve-")) ?? "";
  const sidecar = modules.map(([path]) => path).find((path) => path.startsWith("dist/parts/sidecar-")) ?? "";
  const loaded = new Set<string>();
  const walk = (path: string): void => {
    if (loaded.has(path)) return;
    loaded.add(path);
    for (const to of loadedBy(path)) walk(to);
  };
  for (const path of ["dist/main.js", serve, sidecar]) walk(path);
  const sources = [...loaded].flatMap((path) =>
    mapOf(path).sources.map((source) => source.replace(/^(?:\.\.\/)+/, "")),
  );
  t.ok(sources.includes("src/check/line.ts"), "what is loaded late by name is followed");
  t.ok(sources.includes("src/telemetry/metrics.ts"));
  for (const left of [
    "src/bundle/parse.ts",
    "src/cli/explain.ts",
    "src/console/api.ts",
    "src/server/grpc.ts",
    "src/control/hub.ts",
  ]) {
    t.notOk(sources.includes(left), left);
  }
});

t.test("the same sources make the same files, wherever they lie", async (t) => {
  const root = join(t.testdir(), "elsewhere");
  for (const part of ["src", "tsconfig.json"]) cpSync(join(ROOT, part), join(root, part), { recursive: true });
  t.same(new Map(bundled(root).map(({ path, bytes }) => [path, Buffer.from(bytes).toString()])), files);
});

t.test("maps lead from a place in the program to its source", async (t) => {
  const program = `
    const { sallyportFetch } = await import(${JSON.stringify(join(ROOT, "dist/client/client.js"))});
    await sallyportFetch({})("no URL").catch((error) => console.log(error.stack));`;
  const said = execFileSync(
    "env",
    ["--unset=NODE_OPTIONS", process.execPath, "--enable-source-maps", "--input-type=module", "--eval", program],
    {
      encoding: "utf8",
    },
  );
  t.match(said, /src\/client\/fetch\.ts:\d+:\d+/);
});
