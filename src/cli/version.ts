/** `sallyport version`. */

import { VERSION } from "../server/version.ts";
import { type Command, EXIT_GOOD } from "./command.ts";

export const versionCommand: Command = {
  name: "version",
  arguments: "",
  positionals: [0, 0],
  summary: "Print the version of this program and of Node.",
  flags: [],
  run: async ({ json }, { out }) => {
    out(
      json
        ? JSON.stringify({ version: VERSION, node: process.versions.node })
        : `sallyport ${VERSION} (node ${process.versions.node})`,
    );
    return EXIT_GOOD;
  },
};
