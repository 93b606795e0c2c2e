/** Usage: tsx scripts/find-helm.ts [--install]   Prints the paths of Helm, kubeconform and the Kubernetes API's schemas. */

import { execFile } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { cacheDirectory, cached, existing, goInstalled } from "./tool-cache.ts";

const run = promisify(execFile);

/** Of Helm 3; built with Go where there is none on PATH. */
export const HELM_VERSION = "v3.22.0";
/** The oldest Helm on PATH that is taken: its schema errors are those that the tests know. */
const HELM_MINOR_MIN = 18;
export const KUBECONFORM_VERSION = "v0.8.0";
/** Whose API objects are held to; their schemas come out of the Go module of the same version. */
export const KUBERNETES_VERSION = "v1.34.2";
/** What releases of Helm are linked with: without it, a Helm that asks no cluster takes it for Kubernetes 1.20. */
const LINKED = ["pkg/chartutil", "pkg/lint/rules"]
  .flatMap((place) => [`${place}.k8sVersionMajor=1`, `${place}.k8sVersionMinor=${KUBERNETES_VERSION.split(".")[1]}`])
  .concat(`internal/version.version=${HELM_VERSION}`)
  .map((variable) => `-X helm.sh/helm/v3/${variable}`)
  .join(" ");
const SPECIFICATION = ["api", "openapi-spec", "swagger.json"];
const DOWNLOAD_MS_MAX = 300_000;
const ANSWER_MS_MAX = 20_000;

/** What is asked for; `schemas` is the folder that kubeconform reads, by {@link SCHEMA_LOCATION}. */
export type HelmTool = "helm" | "kubeconform" | "schemas";
export const HELM_TOOLS: readonly HelmTool[] = ["helm", "kubeconform", "schemas"];
/** Of a schema inside the folder `schemas`, as kubeconform's `-schema-location` has it. */
export const SCHEMA_LOCATION = "{{ .ResourceKind }}{{ .KindSuffix }}.json";

/**
 * Looks on PATH (Helm 3.18 or newer) and at the private copy in the user's cache.
 * @param options.install whether a missing private copy may be made, with Go
 * @throws {Error} that says what is missing
 */
export async function findHelmTool(tool: HelmTool, options: { readonly install: boolean }): Promise<string> {
  switch (tool) {
    case "helm":
      return (
        (await usableHelm(existing("helm", (process.env.PATH ?? "").split(":")))) ??
        (await goInstalled(tool, `helm.sh/helm/v3/cmd/helm@${HELM_VERSION}`, {
          ...options,
          proof: ["version"],
          flags: ["-ldflags", LINKED],
        }))
      );
    case "kubeconform":
      return (
        existing("kubeconform", (process.env.PATH ?? "").split(":")) ??
        (await goInstalled(tool, `github.com/yannh/kubeconform/cmd/kubeconform@${KUBECONFORM_VERSION}`, {
          ...options,
          proof: ["-v"],
        }))
      );
    case "schemas":
      return await schemas(options.install);
    default:
      throw new RangeError(`no such tool: ${tool satisfies never}`);
  }
}

async function usableHelm(path: string | undefined): Promise<string | undefined> {
  if (path === undefined) return undefined;
  const { stdout } = await run(path, ["version", "--template", "{{ .Version }}"], { timeout: ANSWER_MS_MAX });
  const version = /^v3\.(\d+)\./.exec(stdout);
  return version !== null && Number(version[1]) >= HELM_MINOR_MIN ? path : undefined;
}

/** A schema of the API's specification, or a part of one. */
interface Schema {
  readonly $ref?: string;
  readonly type?: string;
  readonly format?: string;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly "x-kubernetes-group-version-kind"?: readonly {
    readonly group: string;
    readonly version: string;
    readonly kind: string;
  }[];
}

async function schemas(install: boolean): Promise<string> {
  const folder = join(cacheDirectory(), `kubernetes-schemas-${KUBERNETES_VERSION}`);
  await cached(folder, "pod-v1.json", install, async (scratch) => {
    const { stdout } = await run("go", ["mod", "download", "-json", `k8s.io/kubernetes@${KUBERNETES_VERSION}`], {
      timeout: DOWNLOAD_MS_MAX,
      cwd: scratch,
    });
    const { Dir } = JSON.parse(stdout) as { readonly Dir: string };
    const text = await readFile(join(Dir, ...SPECIFICATION), "utf8");
    const { definitions } = JSON.parse(text) as { readonly definitions: Readonly<Record<string, Schema>> };
    for (const [name, definition] of Object.entries(definitions)) {
      const kinds = definition["x-kubernetes-group-version-kind"];
      // Options and events of watches belong to every group: nobody writes them into a manifest.
      if (kinds?.length !== 1) continue;
      for (const { group, version, kind } of kinds) {
        const suffix = group === "" ? version : `${group.split(".")[0]}-${version}`;
        await writeFile(join(scratch, `${kind.toLowerCase()}-${suffix}.json`), standalone(name, definitions));
      }
    }
  });
  return folder;
}

/** A JSON Schema with all that it refers to, closed: keys that the API does not know are refused, as by a strict server. */
function standalone(name: string, definitions: Readonly<Record<string, Schema>>): string {
  const needed = new Map<string, unknown>();
  const closed = (schema: unknown): unknown => {
    if (Array.isArray(schema)) return schema.map(closed);
    if (typeof schema !== "object" || schema === null) return schema;
    const { $ref, format, properties } = schema as Schema;
    if ($ref !== undefined) need($ref.slice("#/definitions/".length));
    if (format === "int-or-string") return { type: ["string", "integer"] };
    const copy = Object.fromEntries(
      Object.entries(schema)
        .filter(([key]) => key !== "description" && key !== "format" && !key.startsWith("x-kubernetes-"))
        .map(([key, value]) => [key, key === "properties" ? mapped(value as object) : closed(value)]),
    );
    return properties === undefined ? copy : { ...copy, additionalProperties: false };
  };
  const mapped = (properties: object): unknown =>
    Object.fromEntries(Object.entries(properties).map(([key, value]) => [key, closed(value)]));
  const need = (wanted: string): void => {
    if (needed.has(wanted)) return;
    needed.set(wanted, true); // before its parts: some refer to themselves
    // A quantity is a text in the specification, and may be a number in a manifest.
    const isQuantity = wanted.endsWith(".api.resource.Quantity");
    needed.set(wanted, isQuantity ? { type: ["string", "number"] } : closed(definitions[wanted]));
  };
  need(name);
  return JSON.stringify({ $ref: `#/definitions/${name}`, definitions: Object.fromEntries(needed) });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const tool of HELM_TOOLS) {
    try {
      console.log(await findHelmTool(tool, { install: process.argv.includes("--install") }));
    } catch (error) {
      console.error(`${tool}: ${(error as Error).message}`); // the others are still told
      process.exitCode = 1;
    }
  }
}
