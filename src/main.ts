#!/usr/bin/env node
/** Process entry: hands the arguments to the commands. */

import { run } from "./cli/main.ts";

const args = process.argv.slice(2);
// Whoever read has left, as `head` does: nothing more to say. Only the sidecar goes on without its reader.
if (args[0] !== "serve") process.stdout.on("error", () => process.exit());

process.exitCode = await run(args, {
  out: (line) => process.stdout.write(`${line}\n`),
  err: (line) => process.stderr.write(`${line}\n`),
  environment: process.env,
});
