/** `sallyport serve`: the sidecar. */

import { readFileSync } from "node:fs";
import { PolicyLoader } from "../bundle/loader.ts";
import { OperatingError } from "../model/errors.ts";
import { type ConfigSources, type FileSettings, readConfig, type ServeConfig } from "../server/config.ts";
import { SETTINGS, type Setting } from "../server/settings.ts";
import type { Sidecar } from "../server/sidecar.ts";
import { VERSION } from "../server/version.ts";
import { YoungGeneration } from "../server/young-generation.ts";
import { createLog, type Logger } from "../telemetry/log.ts";
import { type Command, EXIT_BAD, EXIT_GOOD, type Invocation, type Terminal } from "./command.ts";
import { untilSignal } from "./until-signal.ts";

export const serveCommand: Command = {
  name: "serve",
  arguments: "",
  positionals: [0, 0],
  summary: "Run the sidecar that answers Envoy's external-authorization calls.",
  flags: [
    {
      name: "config",
      value: "FILE",
      summary: "YAML file with these settings, by the same names; or SALLYPORT_CONFIG.",
    },
    ...(SETTINGS as readonly Setting[]).map(({ name, kind, choices, fallback, summary }) => ({
      name,
      value: choices?.join("|") ?? kind.replace("optional-", "").toUpperCase(),
      summary: fallback === undefined ? summary : `${summary} Default ${fallback}.`,
    })),
  ],
  run: async (invocation, terminal) => {
    const read = readConfig(await sourcesOf(invocation, terminal));
    if (!read.ok) {
      for (const problem of read.problems) terminal.err(problem);
      return EXIT_BAD;
    }
    const log = createLog(read.config.logLevel);
    const sidecar = await start(read.config, log);
    log.info({ event: "started", version: VERSION, ...sidecar.addresses }, "answering Envoy");
    const signal = await untilSignal();
    log.info({ event: "stopping", signal }, "draining");
    await sidecar.stop();
    log.info({ event: "stopped" }, "drained");
    return EXIT_GOOD;
  },
};

/** Policy is read on a thread of its own, which comes up while the rest of the program is loaded here. */
async function start(config: ServeConfig, log: Logger): Promise<Sidecar> {
  const loader = new PolicyLoader();
  if (config.policy !== undefined) loader.warm();
  const youngGeneration = new YoungGeneration();
  const { startSidecar } = await import("../server/sidecar.ts");
  return startSidecar(config, log, loader, youngGeneration);
}

export async function sourcesOf({ values }: Invocation, { environment }: Terminal): Promise<ConfigSources> {
  const path = values.config ?? environment.SALLYPORT_CONFIG;
  return { flags: values, environment, file: path === undefined ? undefined : await readSettings(path) };
}

/** Most sidecars are set up by flags and environment: what reads YAML is loaded only for a file. */
async function readSettings(path: string): Promise<FileSettings> {
  const text = readText(path);
  const { readConfigFile } = await import("../server/config-file.ts");
  return readConfigFile({ name: path, text });
}

function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (cause) {
    throw new OperatingError("ERR_CONFIG_INVALID", `${path}: expected a file that can be read`, { cause });
  }
}
