/** `sallyport control`: the fleet's control plane. */

import { readFileSync } from "node:fs";
import { CONTROL_SETTINGS, readControlConfig } from "../control/config.ts";
import { OperatingError } from "../model/errors.ts";
import { startControl } from "../server/control.ts";
import { VERSION } from "../server/version.ts";
import { createLog } from "../telemetry/log.ts";
import { type Command, EXIT_BAD, EXIT_GOOD } from "./command.ts";
import { untilSignal } from "./until-signal.ts";

export const controlCommand: Command = {
  name: "control",
  arguments: "",
  positionals: [0, 0],
  summary: "Run the control plane that hands signed policy bundles to a fleet of sidecars.",
  flags: [
    {
      name: "config",
      value: "FILE",
      summary: "YAML file with these settings, by the same names, and `grants`; or SALLYPORT_CONTROL_PLANE_CONFIG.",
    },
    ...CONTROL_SETTINGS.map(({ name, value, fallback, summary }) => ({
      name,
      value,
      summary: fallback === undefined || value === undefined ? summary : `${summary} Default ${fallback}.`,
    })),
  ],
  run: async ({ values, switches }, terminal) => {
    const path = values.config ?? terminal.environment.SALLYPORT_CONTROL_PLANE_CONFIG;
    const read = readControlConfig({
      flags: values,
      switches,
      environment: terminal.environment,
      file: path === undefined ? undefined : { name: path, text: readText(path) },
    });
    if (!read.ok) {
      for (const problem of read.problems) terminal.err(problem);
      return EXIT_BAD;
    }
    const log = createLog(read.settings.logLevel);
    const control = await startControl(read.settings, log);
    log.info({ event: "started", version: VERSION, ...control.addresses }, "serving the fleet");
    const signal = await untilSignal();
    log.info({ event: "stopping", signal }, "draining");
    await control.stop();
    log.info({ event: "stopped" }, "drained");
    return EXIT_GOOD;
  },
};

function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (cause) {
    throw new OperatingError("ERR_CONFIG_INVALID", `${path}: expected a file that can be read`, { cause });
  }
}
