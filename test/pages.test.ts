/** Holds the pages to what there is: their links, the commands and flags that they show, the chart's values that they name. */

import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { parse } from "yaml";
import { allCommands } from "../src/cli/main.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const FOLDERS = ["docs", "envoy", "k8s"];

const PAGES: readonly string[] = [
  ...readdirSync(ROOT).filter((name) => name.endsWith(".md")),
  ...FOLDERS.flatMap((folder) =>
    readdirSync(join(ROOT, folder), { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile() && entry.name.endsWith(".md"))
      .map((entry) => relative(ROOT, join(entry.parentPath, entry.name))),
  ),
];
const textOf = (page: string): string => readFileSync(join(ROOT, page), "utf8");
const FENCED = /^( *)```[\s\S]*?^\1```$/gm;

/** Anchors of a page's headings, as GitHub makes them. */
function anchorsOf(page: string): ReadonlySet<string> {
  const anchors = new Set<string>();
  const seen = new Map<string, number>();
  for (const [, heading = ""] of textOf(page)
    .replace(FENCED, "")
    .matchAll(/^#{1,6} (.*)$/gm)) {
    const plain = heading.replace(/\[([^\]]*)\]\([^)]*\)/g, "$1").toLowerCase();
    const anchor = plain.replace(/[^\p{L}\p{N}\s_-]/gu, "").replaceAll(" ", "-");
    const times = seen.get(anchor) ?? 0;
    seen.set(anchor, times + 1);
    anchors.add(times === 0 ? anchor : `${anchor}-${times}`);
  }
  return anchors;
}

/** What of a page's links leads nowhere. */
function brokenLinks(page: string): readonly string[] {
  const prose = textOf(page)
    .replace(FENCED, "")
    .replace(/`[^`\n]*`/g, "");
  return [...prose.matchAll(/\]\(([^)\s]+)\)/g)].flatMap(([, target = ""]) => {
    if (/^(?:https?|mailto):/.test(target)) return [];
    const [path = "", anchor] = target.split("#");
    const file = path === "" ? join(ROOT, page) : resolve(ROOT, dirname(page), path);
    if (!existsSync(file)) return [`${page}: ${target}: no such file`];
    if (anchor === undefined || statSync(file).isDirectory() || !file.endsWith(".md")) return [];
    return anchorsOf(relative(ROOT, file)).has(anchor) ? [] : [`${page}: ${target}: no such heading`];
  });
}

/** Everything that a page shows as code: lines of its shell blocks, joined where they go on, and code in its prose. */
function shownCode(page: string): readonly string[] {
  const text = textOf(page);
  const blocks = [...text.matchAll(/^ *```(?:sh|bash)\n([\s\S]*?)^ *```$/gm)].map(([, block = ""]) => block);
  const lines = blocks.flatMap((block) => block.replace(/\\\n\s*/g, " ").split("\n"));
  const inline = [...text.replace(FENCED, "").matchAll(/`([^`]+)`/g)].map(([, code = ""]) => code.replace(/\s+/g, " "));
  return [...lines, ...inline];
}

t.test("links between pages lead to files and headings that are there", async (t) => {
  t.ok(PAGES.length > 30);
  t.same(PAGES.flatMap(brokenLinks), []);
});

t.test("commands are shown with flags that they have", async (t) => {
  const commands = new Map((await allCommands()).map((command) => [command.name, command]));
  const wrong: string[] = [];
  let looked = 0;
  for (const page of PAGES) {
    for (const code of shownCode(page)) {
      for (const [, shown = ""] of code.matchAll(/(?:\bsallyport|dist\/main\.js) ([a-z][^|;&>]*)/g)) {
        const [first = "", second = ""] = shown.split(" ");
        const command = commands.get(`${first} ${second}`) ?? commands.get(first);
        if (command === undefined) continue; // the name of a release, a folder, an image
        const flags = new Set(["help", "output", ...command.flags.map(({ name }) => name)]);
        for (const [, flag = ""] of shown.replace(/ #.*$/, "").matchAll(/ --([a-z][a-z0-9-]*)/g)) {
          looked++;
          if (!flags.has(flag)) wrong.push(`${page}: ${command.name} --${flag}`);
        }
      }
    }
  }
  t.ok(looked > 150, `${looked} flags`);
  t.same(wrong, []);
});

t.test("values that pages on Kubernetes name are values of the chart", async (t) => {
  type Schema = { readonly properties?: Readonly<Record<string, Schema>>; readonly additionalProperties?: unknown };
  const schema = JSON.parse(textOf("k8s/chart/values.schema.json")) as Schema;
  const top = Object.keys(parse(textOf("k8s/chart/values.yaml")) as object).join("|");
  const NAMED = new RegExp(`^(?:--set(?:-[a-z]+)? )?'?((?:${top})(?:\\.[A-Za-z0-9-]+)+)`);
  const isValue = (path: string): boolean => {
    let here: Schema | undefined = schema;
    for (const name of path.split(".")) {
      if (here?.properties === undefined) return true; // a mapping whose keys are free, or defined elsewhere
      here = here.properties[name];
      if (here === undefined) return false;
    }
    return true;
  };
  /** Not values: files, and events of the log. */
  const OTHERS = /\.(?:yaml|json)$|^policy\.(?:refused|unreachable)$/;
  const wrong: string[] = [];
  let looked = 0;
  for (const page of PAGES.filter((name) => name === "docs/kubernetes.md" || name.startsWith("k8s/"))) {
    for (const code of shownCode(page)) {
      const sets = [...code.matchAll(/--set(?:-[a-z]+)? '?([A-Za-z][A-Za-z.-]*)[={]/g)].map(([, path = ""]) => path);
      const [, named] = NAMED.exec(code) ?? [];
      for (const path of [...sets, ...(named === undefined ? [] : [named])]) {
        if (OTHERS.test(path)) continue;
        looked++;
        if (!isValue(path)) wrong.push(`${page}: ${path}`);
      }
    }
  }
  t.ok(looked > 60, `${looked} values`);
  t.same(wrong, []);
});
