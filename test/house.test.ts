import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { stalePages } from "../scripts/docs.ts";
import { staleFiles } from "../scripts/generate.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const SOURCE = join(ROOT, "src");

/** Layer by the longest folder or file that matches; imports point to the same layer or down. */
const LAYERS: readonly (readonly [prefix: string, layer: number])[] = [
  ["model/", 0],
  ["identity/", 1],
  ["signals/", 1],
  ["score/", 1],
  ["decide/", 1],
  ["challenge/", 1],
  ["baseline/", 1],
  ["sessions/session.ts", 1],
  ["bundle/", 1],
  ["sessions/", 2],
  ["baseline/store.ts", 2],
  ["bundle/current.ts", 2],
  ["streams/open-streams.ts", 2],
  ["streams/", 3],
  ["check/", 3],
  ["simulate/", 3],
  ["envoy/", 4],
  ["client/", 4],
  ["console/", 4],
  ["control/", 4],
  ["telemetry/", 4],
  ["webhook/", 4],
  ["transport/", 4],
  ["bundle/jws.ts", 4],
  ["bundle/keys.ts", 4],
  ["bundle/sign.ts", 4],
  ["bundle/verify.ts", 4],
  ["bundle/load.ts", 4],
  ["bundle/load-worker.ts", 4],
  ["bundle/loader.ts", 4],
  ["bundle/paced.ts", 4],
  ["bundle/sync/", 4],
  ["bundle/shipped-networks.ts", 4],
  ["shared-signals/", 4],
  ["shared-signals/subjects.ts", 1],
  ["shared-signals/events.ts", 1],
  ["shared-signals/set.ts", 1],
  ["shared-signals/mapping.ts", 1],
  ["injector/", 3],
  ["injector/parse-config.ts", 4],
  ["injector/injection.ts", 4],
  ["server/", 5],
  ["server/settings.ts", 1],
  ["server/config.ts", 4],
  ["server/policy-config.ts", 4],
  ["cli/", 5],
  ["main.ts", 5],
];

/** Who may know generated protobuf types. */
const GEN_READERS = ["envoy/", "bundle/", "console/", "control/", "shared-signals/", "server/", "cli/", "gen/"];

/** Node's own modules that touch nothing outside their arguments. */
const PURE_BUILTINS = ["node:crypto", "node:net", "node:zlib"];

/** What only edges may reach for: clocks, chance, surroundings, output. */
const IMPURE =
  /\b(?:Date\.now|new Date\(\)|Math\.random|performance\.|process\.|console\.|setTimeout|setInterval|fetch\()/;

function layerOf(file: string): number {
  const match = LAYERS.filter(([prefix]) => file.startsWith(prefix)).sort((a, b) => b[0].length - a[0].length)[0];
  return match?.[1] ?? Number.NaN;
}

const files = readdirSync(SOURCE, { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile() && entry.name.endsWith(".ts"))
  .map((entry) => relative(SOURCE, join(entry.parentPath, entry.name)))
  .filter((file) => !file.startsWith("gen/"));

function importsOf(file: string): readonly string[] {
  const text = readFileSync(join(SOURCE, file), "utf8");
  return [...text.matchAll(/^(?:import|export) [^;]*?from "([^"]+)";$/gms)].map((match) => match[1] as string);
}

t.test("every source file has a layer", async (t) => {
  t.same(
    files.filter((file) => Number.isNaN(layerOf(file))),
    [],
  );
});

t.test("imports point down the layers and never up", async (t) => {
  const upward: string[] = [];
  for (const file of files) {
    for (const name of importsOf(file)) {
      if (!name.startsWith(".")) continue;
      const target = relative(SOURCE, resolve(SOURCE, dirname(file), name));
      if (target.startsWith("gen/")) {
        if (!GEN_READERS.some((reader) => file.startsWith(reader))) upward.push(`${file} -> ${target}`);
      } else if (layerOf(target) > layerOf(file)) {
        upward.push(`${file} -> ${target}`);
      }
    }
  }
  t.same(upward, []);
});

t.test("the client helper takes nothing of the program but the rules on challenges", async (t) => {
  const foreign = files
    .filter((file) => file.startsWith("client/"))
    .flatMap((file) => importsOf(file).map((name) => [file, name] as const))
    .filter(([file, name]) => {
      if (!name.startsWith(".")) return name !== "node:crypto" && name !== "@grpc/grpc-js";
      return !/^(?:client|challenge)\//.test(relative(SOURCE, resolve(SOURCE, dirname(file), name)));
    });
  t.same(foreign, []);
  const grpc = readFileSync(join(SOURCE, "client/grpc.ts"), "utf8");
  t.match(grpc, /^import type \{[^}]*\} from "@grpc\/grpc-js";$/m, "and of grpc-js its types only");
});

t.test("rules, memory and the line use no files, sockets, clocks, chance or output", async (t) => {
  const impure: string[] = [];
  for (const file of files.filter((candidate) => layerOf(candidate) <= 3)) {
    for (const name of importsOf(file)) {
      if (name.startsWith("node:") && !PURE_BUILTINS.includes(name)) impure.push(`${file} imports ${name}`);
    }
    const code = readFileSync(join(SOURCE, file), "utf8").replace(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, "");
    const found = IMPURE.exec(code);
    if (found !== null) impure.push(`${file} uses ${found[0]}`);
  }
  t.same(impure, []);
});

t.test("generated protobuf code is what proto/ generates", async (t) => {
  t.same(staleFiles(), []);
});

t.test("generated pages are what their sources say", async (t) => {
  t.same(stalePages(), []);
});

t.test("every source file opens with a sentence on what it is for", async (t) => {
  t.same(
    files.filter((file) => !/^(?:#!.*\n)?\/\*\*/.test(readFileSync(join(SOURCE, file), "utf8"))),
    [],
  );
});
