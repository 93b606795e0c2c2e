/** Usage: tsx scripts/chart.ts [--check]   Writes the chart's values.schema.json, README.md and dashboard from their sources. */

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { isScalar, parse, parseDocument } from "yaml";
import { CONTROL_SETTINGS } from "../src/control/config.ts";
import { ANNOTATION_NAMES } from "../src/injector/annotations.ts";
import { MANAGED_SETTINGS } from "../src/injector/serve-settings.ts";
import { SETTINGS } from "../src/server/settings.ts";
import { dashboard } from "./chart-dashboard.ts";

const CHART = fileURLToPath(new URL("../k8s/chart", import.meta.url));
const VALUES = "values.yaml";

/** JSON Schema, draft 7: what Helm 3 understands in all its releases. */
export type Schema = Readonly<Record<string, unknown>>;

/** One value of the chart, as its comment in values.yaml describes it. */
export interface Value {
  /** Keys from the top. */
  readonly path: readonly string[];
  /** Of the part of the file that it stands in. */
  readonly section: string;
  readonly summary: string;
  /** What it is called in the README. */
  readonly type: string;
  readonly fallback: unknown;
  readonly schema: Schema;
}

const NAME = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?";
const HOST = `${NAME}(\\.${NAME})*`;
const OBJECT_NAME = "[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?";
/** A registry's host with its port, and a path; no tag or digest, which have values of their own. */
const REPOSITORY = "[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*";
const QUANTITY = {
  type: ["string", "number"],
  minimum: 0,
  pattern: "^[0-9]+(\\.[0-9]+)?([kMGTPE]i?|Ki|[num]|[eE][+-]?[0-9]{1,2})?$",
};
const QUANTITIES = { type: "object", additionalProperties: QUANTITY };

function text(pattern: string, more: Schema = {}): Schema {
  return { type: "string", pattern, ...more };
}

function closed(properties: Schema, required: readonly string[] = []): Schema {
  return { type: "object", additionalProperties: false, properties, ...(required.length > 0 ? { required } : {}) };
}

function listOf(items: Schema): Schema {
  return { type: "array", items };
}

/** Settings of the control plane that templates write; a value of the chart says so instead. */
const CONTROL_MANAGED = [
  "address",
  "health-address",
  "state-dir",
  "bundle-keys",
  "insecure-unsigned-bundles",
  "tls-cert",
  "tls-key",
  "client-ca",
  "tokens",
  "insecure-plaintext",
  "nats-servers",
  "nats-credentials",
  "nats-ca",
  "shared-signals",
  "kubernetes",
  "kubernetes-namespaces",
  "trust-domain",
];

/** Settings by name, each a single value: the program itself judges it, and the webhook before any pod does. */
function settingsOf(all: readonly { readonly name: string }[], managed: readonly string[]): Schema {
  const names = all.map(({ name }) => name).filter((name) => !managed.includes(name));
  return closed(Object.fromEntries(names.map((name) => [name, { type: ["string", "number", "boolean"] }])));
}

const ENV_VAR = closed(
  {
    name: text("^[-._a-zA-Z][-._a-zA-Z0-9]*$"),
    value: { type: "string" },
    valueFrom: { type: "object" },
  },
  ["name"],
);
const REQUIREMENT = closed(
  {
    key: { type: "string", minLength: 1 },
    operator: { enum: ["In", "NotIn", "Exists", "DoesNotExist"] },
    values: listOf({ type: "string" }),
  },
  ["key", "operator"],
);

/** What `# @type` may say. */
const TYPES: Readonly<Record<string, Schema>> = {
  annotations: { type: "object", additionalProperties: { type: "string" } },
  configKey: text("^[-._a-zA-Z0-9]{1,253}$"),
  controlSettings: settingsOf(CONTROL_SETTINGS, CONTROL_MANAGED),
  digest: text("^(sha256:[0-9a-f]{64})?$"),
  envVars: listOf(ENV_VAR),
  envoyTls: {
    ...closed(
      {
        secret: text(`^${OBJECT_NAME}$`),
        certificate: { type: "string" },
        key: { type: "string" },
        clientCa: { type: "string" },
        clientPrefix: { type: "string" },
      },
      ["secret"],
    ),
    type: ["object", "null"],
  },
  extraObjects: listOf({ type: ["object", "string"] }),
  grants: listOf(
    closed(
      {
        spiffe: text("^spiffe://"),
        roles: { ...listOf({ enum: ["sidecar", "viewer", "operator"] }), minItems: 1 },
        channels: listOf({ type: "string" }),
        labels: { type: "object", additionalProperties: { type: "string" } },
      },
      ["spiffe", "roles"],
    ),
  ),
  hostname: text(`^${HOST}$`),
  hostnames: listOf(text(`^${HOST}$`)),
  httpsAddresses: text("^(https://[^\\s,/]+(,https://[^\\s,/]+)*)?$"),
  issuerReference: closed({
    name: text(`^${OBJECT_NAME}$`),
    kind: { type: "string", minLength: 1 },
    group: { type: "string", minLength: 1 },
  }),
  keyReference: closed({ name: text(`^(${OBJECT_NAME})?$`), key: text("^[-._a-zA-Z0-9]{1,253}$") }),
  labels: {
    type: "object",
    additionalProperties: text("^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"),
  },
  labelSelectorRequirements: listOf(REQUIREMENT),
  localReferences: listOf(closed({ name: text(`^${OBJECT_NAME}$`) }, ["name"])),
  matchConditions: listOf(closed({ name: { type: "string" }, expression: { type: "string" } }, ["name", "expression"])),
  name: text(`^${OBJECT_NAME}$`),
  namedObjects: listOf({ type: "object", required: ["name"], properties: { name: { type: "string" } } }),
  names: { ...listOf(text(`^${NAME}$`)), uniqueItems: true },
  object: { type: "object" },
  objects: listOf({ type: "object" }),
  optionalCount: { type: ["integer", "string", "null"], minimum: 0, pattern: "^[0-9]{1,3}%$" },
  optionalId: { type: ["integer", "null"], minimum: 1, maximum: 2_147_483_647 },
  optionalName: text(`^(${OBJECT_NAME})?$`),
  optionalPort: { type: ["integer", "null"], minimum: 1, maximum: 65_535 },
  optionalUrl: text("^(https?://\\S+)?$"),
  overrides: { type: ["array", "null"], items: { enum: ANNOTATION_NAMES }, uniqueItems: true },
  pem: text("^(-----BEGIN CERTIFICATE-----[\\s\\S]+)?$"),
  port: { type: "integer", minimum: 1, maximum: 65_535 },
  ports: { ...listOf({ type: "integer", minimum: 1, maximum: 65_535 }), minItems: 1 },
  prometheusDuration: text("^([0-9]+(ms|s|m|h|d|w|y))+$"),
  quantity: QUANTITY,
  optionalRepository: text(`^(${REPOSITORY})?$`),
  repository: text(`^${REPOSITORY}$`),
  resources: closed({ requests: QUANTITIES, limits: QUANTITIES }),
  seconds: { type: "number", exclusiveMinimum: 0 },
  serveSettings: settingsOf(SETTINGS, Object.keys(MANAGED_SETTINGS)),
  share: { type: "number", minimum: 0, maximum: 1 },
  strings: listOf({ type: "string" }),
  tag: text("^([A-Za-z0-9_][A-Za-z0-9._-]{0,127})?$"),
  textOrMap: { type: ["string", "object", "null"] },
};

/** In the README, where another word than the type's own is clearer. */
const SPOKEN: Readonly<Record<string, string>> = {
  optionalName: "name",
  optionalCount: "count, percentage or null",
  optionalId: "id or null",
  optionalPort: "port or null",
  optionalRepository: "repository",
  optionalUrl: "URL",
  overrides: "list of annotations, or null",
  textOrMap: "text or YAML",
  namedObjects: "list",
  objects: "list",
  strings: "list of texts",
  names: "list of names",
  localReferences: "list of {name}",
  keyReference: "{name, key}",
  envVars: "list of variables",
  matchConditions: "list of {name, expression}",
  labelSelectorRequirements: "list of requirements",
  prometheusDuration: "duration",
  httpsAddresses: "address",
  extraObjects: "list",
  envoyTls: "object or null",
};

/**
 * Reads values.yaml: every key with the comment above it.
 * @throws {Error} with the line of a key without a comment it needs, of an unknown word after `@`, or of a default that its
 *   own schema refuses
 */
export function readValues(source: string): readonly Value[] {
  const document = parseDocument(source);
  const values: Value[] = [];
  let section = "";
  let comment: string[] = [];
  const open: { readonly indent: number; readonly key: string }[] = [];
  /** Deeper lines belong to the default of a typed value. */
  let inside = Number.POSITIVE_INFINITY;
  for (const [index, line] of source.split("\n").entries()) {
    const where = `${VALUES}:${index + 1}`;
    const heading = /^# --- (.+)$/.exec(line);
    const spoken = /^ *# ?(.*)$/.exec(line);
    const keyed = /^( *)([A-Za-z][\w]*):(?: |$)/.exec(line);
    if (heading !== null) section = heading[1] as string;
    else if (spoken !== null) {
      comment.push(spoken[1] as string);
      continue;
    } else if (keyed !== null) {
      const indent = (keyed[1] as string).length;
      if (indent > inside) continue;
      inside = Number.POSITIVE_INFINITY;
      while ((open.at(-1)?.indent ?? -1) >= indent) open.pop();
      open.push({ indent, key: keyed[2] as string });
      const path = open.map(({ key }) => key);
      const node = document.getIn(path, true);
      const fallback = isScalar(node) ? node.value : (document.getIn(path, false) as { toJSON(): unknown }).toJSON();
      const marks = comment.filter((said) => said.startsWith("@"));
      const summary = comment.filter((said) => !said.startsWith("@")).join(" ");
      const group = marks.length === 0 && typeof fallback === "object" && fallback !== null && !Array.isArray(fallback);
      if (!group) {
        const { type, schema } = schemaOf(marks, fallback, where);
        values.push({ path, section, summary, type, fallback, schema });
        inside = indent;
      }
    }
    comment = [];
  }
  return values;
}

function schemaOf(marks: readonly string[], fallback: unknown, where: string): Pick<Value, "type" | "schema"> {
  const [mark, ...more] = marks;
  if (more.length > 0) throw new Error(`${where}: expected one line with @, got ${marks.length}`);
  const [, word, rest = ""] = /^@(\w+) (.+)$/.exec(mark ?? "") ?? [];
  switch (word) {
    case undefined: {
      if (mark !== undefined) throw new Error(`${where}: expected @WORD and more, got ${mark}`);
      const type = typeof fallback;
      if (type === "boolean" || type === "string") return { type: type === "string" ? "text" : type, schema: { type } };
      throw new Error(`${where}: expected a line with @, since the default does not say what else it may be`);
    }
    case "type": {
      const schema = TYPES[rest];
      if (schema === undefined) throw new Error(`${where}: expected a type of scripts/chart.ts, got ${rest}`);
      return { type: SPOKEN[rest] ?? rest, schema };
    }
    case "enum": {
      const choices = parse(`[${rest}]`, { schema: "failsafe" }) as string[];
      // Helm reads a bare `off` as false, as YAML 1.1 has it.
      const also = choices.includes("off") ? [false] : [];
      const named = choices.map((choice) => (choice === "" ? "empty" : `\`${choice}\``));
      return { type: named.join(", "), schema: { enum: [...choices, ...also] } };
    }
    case "range": {
      const [minimum, maximum] = rest.split("..").map(Number);
      return { type: `${minimum} to ${maximum}`, schema: { type: "integer", minimum, maximum } };
    }
    case "pattern":
      return { type: "text", schema: text(rest) };
    default:
      throw new Error(`${where}: expected @type, @enum, @range or @pattern, got @${word}`);
  }
}

/** The schema of all values: closed at every level that has keys of its own. Types are written out, for plainer messages. */
export function schemaText(source = readFileSync(join(CHART, VALUES), "utf8")): string {
  const root: Record<string, unknown> = {};
  for (const { path, schema, summary, fallback } of readValues(source)) {
    let level = root;
    for (const key of path.slice(0, -1)) {
      level[key] ??= closed({});
      level = (level[key] as { properties: Record<string, unknown> }).properties;
    }
    level[path.at(-1) as string] = {
      ...(summary === "" ? {} : { description: summary }),
      default: fallback,
      ...schema,
    };
  }
  const head = {
    $schema: "http://json-schema.org/draft-07/schema#",
    title: "Values of the chart sallyport; written by scripts/chart.ts from values.yaml",
  };
  return `${JSON.stringify({ ...head, ...closed(root) }, undefined, 2)}\n`;
}

/** The chart's README: its prose with the tables of values put in. */
export function readmeText(source = readFileSync(join(CHART, VALUES), "utf8")): string {
  const lines: string[] = [];
  let section = "";
  for (const value of readValues(source)) {
    if (value.section !== section) {
      section = value.section;
      lines.push("", `### ${section}`, "", "| value | type | default | meaning |", "| --- | --- | --- | --- |");
    }
    const cells = [`\`${value.path.join(".")}\``, value.type, code(value.fallback), value.summary];
    lines.push(`| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`);
  }
  const prose = readFileSync(join(CHART, "README.md.in"), "utf8");
  return prose.replace("<!-- VALUES -->", () => lines.join("\n").trim());
}

function code(value: unknown): string {
  return value === "" ? "" : `\`${JSON.stringify(value)}\``;
}

const FILES: readonly (readonly [file: string, make: () => string])[] = [
  ["values.schema.json", schemaText],
  ["README.md", readmeText],
  ["files/dashboard.json", () => `${JSON.stringify(dashboard(), undefined, 1)}\n`],
];

/** Generated files that differ from what their sources say now. */
export function staleChartFiles(): readonly string[] {
  return FILES.filter(([file, make]) => readIfThere(join(CHART, file)) !== make()).map(([file]) => `k8s/chart/${file}`);
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined; // missing is stale
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (process.argv.includes("--check")) {
    const stale = staleChartFiles();
    for (const file of stale) console.error(`${file}: not what its source says; run npx tsx scripts/chart.ts`);
    process.exitCode = stale.length > 0 ? 1 : 0;
  } else for (const [file, make] of FILES) writeFileSync(join(CHART, file), make());
}
