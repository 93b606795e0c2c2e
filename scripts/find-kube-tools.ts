/** Usage: tsx scripts/find-kube-tools.ts [--install]   Prints the paths of a Kubernetes without nodes: API server, controllers, kubectl, etcd, Helm. */

import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { findHelmTool, KUBERNETES_VERSION } from "./find-helm.ts";
import { cacheDirectory, cached, existing } from "./tool-cache.ts";

const run = promisify(execFile);

/** A program that requires Kubernetes' own module, whose replaced parts are pinned there: `go install` takes no such module. */
const SOURCE = fileURLToPath(new URL("../test/kubernetes/go-kube", import.meta.url));
const PROGRAMS = ["kube-apiserver", "kube-controller-manager", "kubectl"] as const;
/** The first build compiles some two thousand packages: six minutes of a core and more. */
const BUILD_MS_MAX = 3_000_000;
const DOWNLOAD_MS_MAX = 300_000;
const ANSWER_MS_MAX = 20_000;

/** Tools by name; `helm` as scripts/find-helm.ts finds it. */
export type KubeTool = (typeof PROGRAMS)[number] | "etcd" | "helm";
export const KUBE_TOOLS: readonly KubeTool[] = [...PROGRAMS, "etcd", "helm"];

/**
 * Looks at the private copies in the user's cache; for etcd and Helm on PATH too.
 * @param options.install whether a missing private copy may be made: with Go, and for etcd from Debian's package, without root
 * @throws {Error} that says what is missing
 */
export async function findKubeTool(tool: KubeTool, options: { readonly install: boolean }): Promise<string> {
  switch (tool) {
    case "helm":
      return await findHelmTool(tool, options);
    case "etcd":
      return existing(tool, (process.env.PATH ?? "").split(":")) ?? (await unpackedEtcd(options.install));
    case "kube-apiserver":
    case "kube-controller-manager":
    case "kubectl":
      return join(await builtPrograms(options.install), tool);
    default:
      throw new RangeError(`no such tool: ${tool satisfies never}`);
  }
}

/** All of them; one after the other, as they share what is built. */
export async function findKubeTools(options: { readonly install: boolean }): Promise<Record<KubeTool, string>> {
  const found: [KubeTool, string][] = [];
  for (const tool of KUBE_TOOLS) found.push([tool, await findKubeTool(tool, options)]);
  return Object.fromEntries(found) as Record<KubeTool, string>;
}

/** Built again when the source, its dependencies or Go change. */
async function builtPrograms(install: boolean): Promise<string> {
  const { stdout } = await run("go", ["env", "GOVERSION"], { cwd: SOURCE, timeout: ANSWER_MS_MAX });
  const hash = createHash("sha256").update(stdout);
  const sources = ["go.mod", "go.sum", ...PROGRAMS.map((program) => join(program, "main.go"))];
  for (const name of sources) hash.update(await readFile(join(SOURCE, name)));
  const folder = join(cacheDirectory(), `kube-${KUBERNETES_VERSION}-${hash.digest("hex").slice(0, 16)}`);
  await cached(folder, PROGRAMS[0], install, async (scratch) => {
    const [major, minor] = KUBERNETES_VERSION.slice(1).split(".");
    // Without these a server calls itself v0.0.0-master, which Helm and charts take for an old one.
    const version = { gitVersion: KUBERNETES_VERSION, gitMajor: major, gitMinor: minor };
    const set = Object.entries(version).map(([name, value]) => `-X k8s.io/component-base/version.${name}=${value}`);
    for (const program of PROGRAMS) {
      const flags = ["-trimpath", "-ldflags", ["-s", "-w", ...set].join(" ")];
      await run("go", ["build", ...flags, "-o", join(scratch, program), `./${program}`], {
        cwd: SOURCE,
        timeout: BUILD_MS_MAX,
        env: { ...process.env, CGO_ENABLED: "0" },
      });
      const proof = program === "kubectl" ? ["version", "--client"] : ["--version"];
      await run(join(scratch, program), proof, { timeout: ANSWER_MS_MAX });
    }
  });
  return folder;
}

async function unpackedEtcd(install: boolean): Promise<string> {
  const folder = join(cacheDirectory(), "etcd");
  const inside = join("usr", "bin", "etcd");
  await cached(folder, inside, install, async (scratch) => {
    await run("apt-get", ["download", "--quiet", "etcd-server"], { cwd: scratch, timeout: DOWNLOAD_MS_MAX });
    const name = (await readdir(scratch)).find((file) => file.endsWith(".deb"));
    if (name === undefined) throw new Error("apt-get download left no package");
    await run("dpkg", ["-x", name, "."], { cwd: scratch, timeout: ANSWER_MS_MAX });
    await rm(join(scratch, name));
    await run(join(scratch, inside), ["--version"], { timeout: ANSWER_MS_MAX });
  });
  return join(folder, inside);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const tool of KUBE_TOOLS) {
    try {
      console.log(await findKubeTool(tool, { install: process.argv.includes("--install") }));
    } catch (error) {
      console.error(`${tool}: ${(error as Error).message}`); // the others are still told
      process.exitCode = 1;
    }
  }
}
