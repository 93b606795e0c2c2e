#!/usr/bin/env node
/** Process entry: hands the arguments to the commands. */

import { run } from "./cli/main.ts";

const args = process.argv.slice(2);
if (args[0] !== "serve") {
  process.stdout.on("error", ({ code = "an error" }: NodeJS.ErrnoException) => {
    // Whoever read has left, as `head` does: nothing more to say. Only the sidecar goes on without its reader.
    if (code === "EPIPE") process.exit();
    process.stderr.write(`sallyport: standard output: expected to write all of it, got ${code}\n`);
    process.exit(1);
  });
}
// The remarks have lost their reader: no reason to lose the result as well.
process.stderr.on("error", () => {});

process.exitCode = await run(args, {
  out: (line) => process.stdout.write(`${line}\n`),
  err: (line) => process.stderr.write(`${line}\n`),
  environment: process.env,
});
