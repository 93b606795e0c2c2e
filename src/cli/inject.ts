/** `sallyport inject`: what the webhook does to pods, on manifests. */

import { readFile } from "node:fs/promises";
import { type InjectorConfig, injectPod, parseInjectorConfig } from "../injector/injection.ts";
import type { Change } from "../injector/manifests.ts";
import { applyPatch } from "../injector/patch.ts";
import { OperatingError } from "../model/errors.ts";
import { VERSION } from "../server/version.ts";
import type { Command } from "./command.ts";
import { changeNamed, FILENAME } from "./manifests.ts";

/** What is injected where no configuration is given. */
const DEFAULT_CONFIG = `apiVersion: sallyport.dev/v1
kind: InjectorConfig
image: {repository: ghcr.io/sallyport/sallyport, tag: "${VERSION}"}
`;

export const injectCommand: Command = {
  name: "inject",
  arguments: "",
  positionals: [0, 0],
  summary:
    "Add Sallyport to the pods of manifests, as the webhook does to pods; the result goes to standard output, a line for each object to standard error. Clusters are taken to have native sidecars (Kubernetes 1.29) unless the configuration says `nativeSidecars: never`.",
  flags: [
    FILENAME,
    {
      name: "injector-config",
      value: "FILE",
      summary: "What to add, an `InjectorConfig`; the defaults of this version without it.",
    },
  ],
  run: async (invocation, terminal) => {
    const config = await readConfigFile(invocation.values["injector-config"]);
    return changeNamed(
      invocation,
      terminal,
      (pod, namespace): Change => {
        const injection = injectPod(pod, config, { namespace, nativeSidecars: true });
        if (injection.kind !== "injected") return injection;
        return { kind: "changed", pod: applyPatch(pod, injection.patch), warnings: injection.warnings };
      },
      { changed: "injected" },
    );
  },
};

async function readConfigFile(path: string | undefined): Promise<InjectorConfig> {
  if (path === undefined) return parseInjectorConfig(DEFAULT_CONFIG, "defaults");
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (cause) {
    const why = (cause as NodeJS.ErrnoException).code ?? "an error";
    throw new OperatingError("ERR_USAGE", `${path}: expected a file that can be read, got ${why}`, { cause });
  }
  return parseInjectorConfig(text, path);
}
