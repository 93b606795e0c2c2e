/** `sallyport simulate`: made-up traffic with thefts in it, to try policies and to rerun the evaluation. */

import { once } from "node:events";
import { createWriteStream } from "node:fs";
import { OperatingError } from "../model/errors.ts";
import { simulate } from "../simulate/mesh.ts";
import { type Command, EXIT_GOOD, usage } from "./command.ts";

export const simulateCommand: Command = {
  name: "simulate",
  arguments: "",
  positionals: [0, 0],
  summary:
    "Write rows of a made-up mesh at work for some days, with thefts on the last one, in the form that `replay` reads.",
  flags: [
    { name: "out", value: "ROWS.jsonl", summary: "Where the rows go." },
    { name: "seed", value: "NUMBER", summary: "The same seed gives the same rows. Default 1." },
    { name: "days", value: "NUMBER", summary: "Days of traffic, 2 to 30; thefts are on the last one. Default 3." },
    { name: "services", value: "NUMBER", summary: "Services, 4 to 20. Default 12." },
    { name: "thefts", value: "NUMBER", summary: "Thefts of each kind, 0 to 20. Default 3." },
  ],
  run: async ({ values, json }, { out }) => {
    const path = values.out;
    if (path === undefined) throw usage("simulate: expected --out ROWS.jsonl");
    const rows = simulate({
      seed: whole(values.seed, "seed", 0, 2 ** 32 - 1, 1),
      days: whole(values.days, "days", 2, 30, 3),
      services: whole(values.services, "services", 4, 20, 12),
      thefts: whole(values.thefts, "thefts", 0, 20, 3),
    });
    const file = createWriteStream(path);
    const failed = once(file, "error").then(([cause]) => {
      throw new OperatingError("ERR_STATE_UNWRITABLE", `${path}: cannot be written`, { cause });
    });
    failed.catch(() => {});
    for (const row of rows)
      if (!file.write(`${JSON.stringify(row)}\n`)) await Promise.race([once(file, "drain"), failed]);
    await Promise.race([new Promise<void>((resolve) => file.end(resolve)), failed]);
    const attacks = rows.filter(({ label }) => label === "attack").length;
    out(
      json
        ? JSON.stringify({ rows: rows.length, attacks })
        : `${rows.length} rows, ${attacks} of them a thief's: ${path}`,
    );
    return EXIT_GOOD;
  },
};

function whole(text: string | undefined, name: string, least: number, most: number, fallback: number): number {
  const value = text === undefined ? fallback : Number(text);
  if (Number.isInteger(value) && value >= least && value <= most) return value;
  throw usage(`simulate: --${name}: expected a whole number from ${least} to ${most}, got ${JSON.stringify(text)}`);
}
