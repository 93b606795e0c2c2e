/** A small kubelet: runs what was injected into a pod as processes of this machine, in the order in which a node would. */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, readFileSync } from "node:fs";
import { chmod, mkdir, mkdtemp, rename, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { findEnvoy } from "../../scripts/find-envoy.ts";
import type { Json, JsonObject } from "../../src/injector/injection.ts";
import { objectAt, objectsOf, textAt } from "../../src/injector/json.ts";
import { eventually } from "./guarded.ts";

const MAIN = fileURLToPath(new URL("../../dist/main.js", import.meta.url));

/** The pod's own application, whose container is not one of those that are run. */
export interface AppProcess {
  /** What its `preStop` and SIGTERM do; resolves once it is gone. */
  end(): Promise<void>;
}

export interface PodOptions {
  /** As the API server would have it: injected, with a name and a namespace. */
  readonly pod: JsonObject;
  /** Contents of the Secrets and ConfigMaps that it names. */
  readonly objects?: Readonly<Record<string, Readonly<Record<string, string>>>>;
  /** Started where the pod's own containers would be. */
  readonly app: () => Promise<AppProcess>;
}

export interface RunningPod {
  /** Names of containers in the order in which they were started, the application's among them. */
  readonly started: readonly string[];
  /** Names in the order in which they ended. */
  readonly ended: readonly string[];
  /** JSON lines of a container's standard output so far. */
  lines(container: string): readonly Readonly<Record<string, unknown>>[];
  /** What a container said on standard error. */
  said(container: string): string;
  /** Where a container's path is on this machine. */
  path(container: string, path: string): string;
  /** Puts a Secret's or ConfigMap's new contents in place, as the kubelet does: all at once. */
  renew(object: string, contents: Readonly<Record<string, string>>): Promise<void>;
  /** Ends the pod as a node does; resolves once everything is gone. */
  end(): Promise<void>;
  /** Takes away what is left. */
  remove(): Promise<void>;
}

interface Container {
  readonly name: string;
  readonly spec: JsonObject;
  readonly child: ChildProcess;
  readonly gone: Promise<unknown>;
}

/** Starts init containers one after the other, each once its startup probe is answered; then all others. */
export async function runPod({ pod, objects = {}, app }: PodOptions): Promise<RunningPod> {
  const folder = await mkdtemp(join(tmpdir(), "pod-"));
  await chmod(folder, 0o755);
  const spec = objectAt(pod, "spec");
  const envoy = (await findEnvoy({ install: true })).path;
  const volumes = new Map(objectsOf(spec.volumes).map((volume) => [String(volume.name), volume]));
  for (const [name, volume] of volumes) await makeVolume(join(folder, name), volume, pod, objects, folder);
  const started: string[] = [];
  const ended: string[] = [];
  const running: Container[] = [];

  const start = async (container: JsonObject): Promise<void> => {
    const name = String(container.name);
    const place = (text: string): string => placed(text, container, folder);
    const environment = environmentOf(container, pod);
    const words = (given: Json | undefined): string[] =>
      Array.isArray(given) ? given.map((word) => place(expanded(String(word), environment))) : [];
    const [program, ...first] =
      container.command === undefined
        ? [process.execPath, MAIN]
        : words(container.command).map((word) => word.replace(/^\/usr\/local\/bin\/envoy$/, envoy));
    const out = openSync(join(folder, `${name}.out`), "a");
    const err = openSync(join(folder, `${name}.err`), "a");
    const child = spawn(program!, [...first, ...words(container.args)], {
      env: { PATH: process.env.PATH, ...environment },
      stdio: ["ignore", out, err],
    });
    closeSync(out);
    closeSync(err);
    const gone = once(child, "exit").then(() => ended.push(name));
    process.once("exit", () => child.kill("SIGKILL"));
    started.push(name);
    running.push({ name, spec: container, child, gone });
    await once(child, "spawn");
  };
  const said = (name: string): string => readFileSync(join(folder, `${name}.err`), "utf8");
  const probed = async (container: JsonObject): Promise<void> => {
    const { path, port } = objectAt(objectAt(container, "startupProbe"), "httpGet");
    await eventually(async () => {
      const found = running.find(({ name }) => name === container.name)!;
      if (found.child.exitCode !== null) throw new Error(`${container.name} ended:\n${said(String(container.name))}`);
      const answer = await fetch(`http://127.0.0.1:${port}${path}`).catch(() => undefined); // not listening yet
      return answer?.ok === true ? true : undefined;
    });
  };
  const hook = async (container: JsonObject, when: "postStart" | "preStop"): Promise<number | null> => {
    const { command } = objectAt(objectAt(objectAt(container, "lifecycle"), when), "exec");
    if (!Array.isArray(command)) return 0;
    const [program, ...words] = command.map((word) => placed(String(word), container, folder));
    const child = spawn(program!, words, { stdio: "ignore", env: { PATH: process.env.PATH } });
    await once(child, "exit");
    return child.exitCode;
  };
  const stop = async (container: Container): Promise<void> => {
    await hook(container.spec, "preStop");
    container.child.kill("SIGTERM");
    await container.gone;
  };

  const sidecars = objectsOf(spec.initContainers).filter(({ restartPolicy }) => restartPolicy === "Always");
  const ours = objectsOf(spec.containers).filter(({ name }) => String(name).startsWith("sallyport"));
  let application: AppProcess;
  const remove = async (): Promise<void> => {
    for (const { child } of running) child.kill("SIGKILL");
    await Promise.all(running.map(({ gone }) => gone));
    await rm(folder, { recursive: true, force: true });
  };
  try {
    for (const container of sidecars) {
      await start(container);
      await probed(container);
    }
    for (const container of ours) {
      await start(container);
      if ((await hook(container, "postStart")) !== 0) throw new Error(`${container.name}: postStart failed`);
    }
    application = await app();
    started.push("app");
    for (const container of ours) await probed(container);
  } catch (error) {
    await remove();
    throw error;
  }
  return {
    started,
    ended,
    lines: (name) =>
      readFileSync(join(folder, `${name}.out`), "utf8")
        .split("\n")
        .slice(0, -1)
        .filter((line) => line.startsWith("{"))
        .map((line) => JSON.parse(line) as Record<string, unknown>),
    said,
    path: (name, path) => placed(path, running.find((container) => container.name === name)!.spec, folder),
    renew: async (object, contents) => {
      for (const [name, volume] of volumes) {
        const { secretName } = objectAt(volume, "secret");
        if (secretName === object || objectAt(volume, "configMap").name === object) {
          await project(join(folder, name), contents);
        }
      }
    },
    end: async () => {
      const endApp = application.end().then(() => ended.push("app"));
      // Classic containers end with the application, native ones after it, the last to start first.
      await Promise.all([endApp, ...running.filter(({ spec }) => ours.includes(spec)).map(stop)]);
      for (const container of running.filter(({ spec }) => sidecars.includes(spec)).reverse()) await stop(container);
    },
    remove,
  };
}

/** A text with the paths of a container's mounts as they are here, and the pod's address as loopback. */
function placed(text: string, container: JsonObject, folder: string): string {
  return objectsOf(container.volumeMounts)
    .reduce((value, { name, mountPath }) => value.replaceAll(String(mountPath), join(folder, String(name))), text)
    .replaceAll("0.0.0.0", "127.0.0.1");
}

/** `$(NAME)` of what is known, and `$` for `$$`, as the kubelet does it (k8s.io/kubernetes/third_party/forked/golang/expansion). */
function expanded(text: string, environment: Readonly<Record<string, string>>): string {
  return text.replace(/\$\$|\$\(([^)]*)\)/g, (found, name: string | undefined) =>
    name === undefined ? "$" : (environment[name] ?? found),
  );
}

function environmentOf(container: JsonObject, pod: JsonObject): Record<string, string> {
  return Object.fromEntries(
    objectsOf(container.env).map(({ name, value, valueFrom }) => {
      const { fieldPath } = objectAt(objectAt({ valueFrom: valueFrom ?? {} }, "valueFrom"), "fieldRef");
      return [String(name), typeof value === "string" ? value : fieldOf(pod, String(fieldPath))];
    }),
  );
}

/** A field of the pod as the downward API gives it. */
function fieldOf(pod: JsonObject, path: string): string {
  const annotation = /^metadata\.annotations\['(.*)'\]$/.exec(path)?.[1];
  const metadata = objectAt(pod, "metadata");
  if (annotation !== undefined) return textAt(objectAt(metadata, "annotations"), annotation) ?? "";
  const known: Readonly<Record<string, Json | undefined>> = {
    "metadata.name": metadata.name,
    "metadata.namespace": metadata.namespace,
    "spec.serviceAccountName": "default",
    "spec.nodeName": "node-1",
  };
  const value = known[path];
  if (value === undefined) throw new RangeError(`the downward API has no ${path}`);
  return String(value);
}

async function makeVolume(
  path: string,
  volume: JsonObject,
  pod: JsonObject,
  objects: NonNullable<PodOptions["objects"]>,
  folder: string,
): Promise<void> {
  await mkdir(path);
  await chmod(path, 0o777); // the kubelet's mode of an emptyDir
  const name = objectAt(volume, "secret").secretName ?? objectAt(volume, "configMap").name;
  if (name !== undefined) await project(path, objects[String(name)] ?? {});
  const items = objectsOf(objectAt(volume, "downwardAPI").items);
  if (items.length === 0) return;
  // These files name others, by where the container sees them.
  const spec = objectAt(pod, "spec");
  const reader = [...objectsOf(spec.initContainers), ...objectsOf(spec.containers)].find(({ volumeMounts }) =>
    objectsOf(volumeMounts).some((mount) => mount.name === volume.name),
  );
  await project(
    path,
    Object.fromEntries(
      items.map((item) => {
        const text = fieldOf(pod, String(objectAt(item, "fieldRef").fieldPath));
        return [String(item.path), placed(text, reader!, folder)];
      }),
    ),
  );
}

/** Files behind `..data`, a link that is replaced as a whole (k8s.io/kubernetes/pkg/volume/util/atomic_writer.go). */
async function project(path: string, contents: Readonly<Record<string, string>>): Promise<void> {
  const data = await mkdtemp(join(path, "..data-"));
  await chmod(data, 0o755);
  for (const [name, text] of Object.entries(contents)) {
    await writeFile(join(data, name), text);
    await symlink(join("..data", name), join(path, name)).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "EEXIST") throw error; // from the time before
    });
  }
  await symlink(data, join(path, "..data_tmp"));
  await rename(join(path, "..data_tmp"), join(path, "..data"));
}
