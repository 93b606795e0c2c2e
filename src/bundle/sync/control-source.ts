/** Policy from the control plane. */

import { OperatingError } from "../../model/errors.ts";
import type { ControlSourceOptions, PolicySource } from "./source.ts";

export function controlSource({ address }: ControlSourceOptions): PolicySource {
  throw new OperatingError("ERR_CONTROL", `${address}: this build has no client of the control plane`);
}
