#!/usr/bin/env node
/** Process entry: hands the arguments to the commands. */

import { run } from "./cli/main.ts";

process.exitCode = await run(process.argv.slice(2), {
  out: (line) => process.stdout.write(`${line}\n`),
  err: (line) => process.stderr.write(`${line}\n`),
  environment: process.env,
});
