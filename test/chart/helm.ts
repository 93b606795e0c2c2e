/** Helm and kubeconform as the chart's tests run them, and what was rendered. */

import { execFile } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseAllDocuments, stringify } from "yaml";
import { findHelmTool, type HelmTool, KUBERNETES_VERSION } from "../../scripts/find-helm.ts";
import { skipUnless } from "../support/skip.ts";

export const CHART = fileURLToPath(new URL("../../k8s/chart", import.meta.url));
export const NAMESPACE = "sallyport-system";
export const RELEASE = "sallyport";
const ANSWER_MS_MAX = 60_000;
const OUTPUT_BYTES_MAX = 64 * 1024 * 1024;

async function pathOf(tool: HelmTool): Promise<string | undefined> {
  return await findHelmTool(tool, { install: false }).catch(() => undefined);
}

const [helm, kubeconform, schemas] = await Promise.all([pathOf("helm"), pathOf("kubeconform"), pathOf("schemas")]);

/** For tests that need Helm; and for those that need all three. */
export const WITH_HELM = skipUnless(helm !== undefined, "Helm 3: npx tsx scripts/find-helm.ts --install");
export const WITH_KUBECONFORM = skipUnless(
  helm !== undefined && kubeconform !== undefined && schemas !== undefined,
  "kubeconform and schemas: npx tsx scripts/find-helm.ts --install",
);

/** values-*.yaml of the chart: examples, and cases of these tests. */
export const TOPOLOGIES: readonly string[] = readdirSync(CHART).filter((name) => /^values-.+\.yaml$/.test(name));

/** A Kubernetes object as Helm rendered it. */
export interface Rendered {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly labels?: Readonly<Record<string, string>>;
    readonly annotations?: Readonly<Record<string, string>>;
  };
  // biome-ignore lint/suspicious/noExplicitAny: objects of every kind, looked at from outside
  readonly [key: string]: any;
}

export interface Run {
  readonly ok: boolean;
  readonly out: string;
  readonly err: string;
}

export interface RenderOptions {
  /** Names of files in the chart. */
  readonly files?: readonly string[];
  /** Values over them. */
  readonly values?: object;
  readonly namespace?: string;
  readonly release?: string;
  /** Further arguments. */
  readonly more?: readonly string[];
}

const folder = mkdtempSync(join(tmpdir(), "sallyport-chart-"));
let files = 0;

function valuesFile(values: object): string {
  const path = join(folder, `${files++}.yaml`);
  writeFileSync(path, stringify(values, { version: "1.1" })); // as Helm reads it
  return path;
}

async function run(program: string, args: readonly string[]): Promise<Run> {
  return await new Promise((resolve) => {
    execFile(program, [...args], { timeout: ANSWER_MS_MAX, maxBuffer: OUTPUT_BYTES_MAX }, (error, out, err) =>
      resolve({ ok: error === null, out, err }),
    );
  });
}

/** `helm template`, without a cluster. */
export async function template({ files = [], values = {}, more = [], ...names }: RenderOptions = {}): Promise<Run> {
  const { release = RELEASE, namespace = NAMESPACE } = names;
  return await run(helm as string, [
    "template",
    release,
    CHART,
    `--namespace=${namespace}`,
    `--kube-version=${KUBERNETES_VERSION}`,
    ...files.map((name) => `--values=${join(CHART, name)}`),
    `--values=${valuesFile(values)}`,
    ...more,
  ]);
}

/** `helm install` that changes nothing, with its notes; asks the cluster of `kubeconfig`. */
export async function dryInstall(kubeconfig: string, { files = [], values = {} }: RenderOptions = {}): Promise<Run> {
  return await run(helm as string, [
    "install",
    RELEASE,
    CHART,
    `--namespace=${NAMESPACE}`,
    "--dry-run=server",
    "--disable-openapi-validation",
    `--kubeconfig=${kubeconfig}`,
    ...files.map((name) => `--values=${join(CHART, name)}`),
    `--values=${valuesFile(values)}`,
  ]);
}

export async function lint(files: readonly string[]): Promise<Run> {
  return await run(helm as string, [
    "lint",
    CHART,
    "--strict",
    `--kube-version=${KUBERNETES_VERSION}`,
    ...files.map((name) => `--values=${join(CHART, name)}`),
  ]);
}

/** @throws {Error} with Helm's words when it refuses */
export async function render(options: RenderOptions = {}): Promise<readonly Rendered[]> {
  const { ok, out, err } = await template(options);
  if (!ok) throw new Error(err);
  return objectsIn(out);
}

export function objectsIn(text: string): readonly Rendered[] {
  return parseAllDocuments(text, { version: "1.1", uniqueKeys: true }).flatMap((document) => {
    if (document.errors.length > 0) throw document.errors[0];
    const value = document.toJSON() as Rendered | null;
    return value === null ? [] : [value];
  });
}

/** kubeconform, strict; kinds of others' are passed over, and every other must be known. */
export async function conform(text: string, foreign: readonly string[] = []): Promise<Run> {
  const path = join(folder, `${files++}.yaml`);
  writeFileSync(path, text);
  const location = `${schemas}/{{ .ResourceKind }}{{ .KindSuffix }}.json`;
  return await run(kubeconform as string, [
    "-strict",
    "-summary",
    `-schema-location=${location}`,
    `-skip=${foreign.join(",")}`,
    path,
  ]);
}

export function one(objects: readonly Rendered[], kind: string, name?: string): Rendered {
  const found = objects.filter(
    (object) => object.kind === kind && (name === undefined || object.metadata.name === name),
  );
  if (found.length !== 1) throw new Error(`expected one ${kind} ${name ?? ""}, got ${found.length}`);
  return found[0] as Rendered;
}

/** Pod templates and bare pods. */
export function podsOf(objects: readonly Rendered[]): readonly { readonly where: string; readonly pod: Rendered }[] {
  return objects.flatMap((object) => {
    const where = `${object.kind}/${object.metadata.name}`;
    if (object.kind === "Pod") return [{ where, pod: object }];
    return object.spec?.template?.spec === undefined ? [] : [{ where, pod: object.spec.template as Rendered }];
  });
}

export function chartFile(name: string): string {
  return readFileSync(join(CHART, name), "utf8");
}
