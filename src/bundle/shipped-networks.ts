/** Reads the table of autonomous systems that is shipped with the program; once. */

import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { Networks } from "./networks.ts";

/** Beside the built program; or, from the sources, in the build that lies beside them. */
const PLACES = ["../data/networks.bin", "../../dist/data/networks.bin"].map((path) =>
  fileURLToPath(new URL(path, import.meta.url)),
);

let read: { readonly networks: Networks | undefined } | undefined;

/** @returns `undefined` when the program was built without it: addresses are then told apart by their /16 and /32 only */
export function shippedNetworks(): Networks | undefined {
  if (read === undefined) {
    const place = PLACES.find((path) => existsSync(path));
    read = { networks: place === undefined ? undefined : Networks.read(readFileSync(place)) };
  }
  return read.networks;
}
