/** `sallyport baseline`: look at, forget, carry away and bring in what was learned. */

import { readFileSync } from "node:fs";
import { toJson } from "@bufbuild/protobuf";
import { PrincipalSummarySchema } from "../gen/sallyport/local/v1/local_pb.ts";
import { OperatingError } from "../model/errors.ts";
import { writeExport } from "../server/state-files.ts";
import { type Command, EXIT_GOOD, usage } from "./command.ts";
import { API_FLAGS, calling, type LocalClient, localClient } from "./local-client.ts";

export const baselineCommand: Command = {
  name: "baseline",
  arguments: "show [PRINCIPAL] | reset PRINCIPAL | export FILE | import FILE",
  positionals: [1, 2],
  summary: "Show, reset, export or import what a running sidecar has learned.",
  flags: [
    {
      name: "prior",
      value: undefined,
      summary: "Export only what all principals taught together: it names nobody, and starts another sidecar warm.",
    },
    ...API_FLAGS,
  ],
  run: async (invocation, terminal) => {
    const [action, subject] = invocation.positionals;
    const client = localClient(invocation, terminal);
    const { out } = terminal;
    switch (action) {
      case "show": {
        const { principals } = await calling((options) => client.listPrincipals({ principal: subject ?? "" }, options));
        if (subject !== undefined && principals.length === 0) {
          throw new OperatingError("ERR_NOT_FOUND", `nothing was learned of ${subject}`);
        }
        if (invocation.json) {
          out(
            JSON.stringify(principals.map((one) => toJson(PrincipalSummarySchema, one, { useProtoFieldName: true }))),
          );
          return EXIT_GOOD;
        }
        for (const { principal, requests, features } of principals) {
          out(`${principal}  ${Math.round(requests)} requests`);
          for (const { name, values, top } of features) {
            if (values > 0) out(`  ${name.padEnd(12)} ${values} known: ${top.join(", ")}`);
          }
        }
        if (principals.length === 0) out("nothing learned yet");
        if (subject === undefined) for (const line of await ratesText(client)) out(line);
        return EXIT_GOOD;
      }
      case "reset": {
        const principal = needed(subject, "PRINCIPAL");
        await calling((options) => client.resetBaseline({ principal }, options));
        out(invocation.json ? JSON.stringify({ principal, reset: true }) : `forgotten: ${principal}`);
        return EXIT_GOOD;
      }
      case "export": {
        const file = needed(subject, "FILE");
        const { state } = await calling((options) =>
          client.exportBaselines({ prior: invocation.switches.has("prior") }, options),
        );
        writeExport(file, state);
        out(invocation.json ? JSON.stringify({ file, bytes: state.length }) : `wrote ${state.length} bytes to ${file}`);
        return EXIT_GOOD;
      }
      case "import": {
        const file = needed(subject, "FILE");
        const state = readBytes(file);
        await calling((options) => client.importBaselines({ state }, options));
        out(invocation.json ? JSON.stringify({ file, imported: true }) : `imported ${file}`);
        return EXIT_GOOD;
      }
      default:
        throw usage(`baseline: expected show, reset, export or import, got ${JSON.stringify(action)}`);
    }
  },
};

/** What the score promises beside what was seen: the operator's false-positive budget and its use. */
async function ratesText(client: LocalClient): Promise<readonly string[]> {
  const { scoreBands, scored } = await calling((options) => client.getStatus({}, options));
  if (scored === 0n) return [];
  const percent = (share: number): string => `${(100 * share).toFixed(3)}%`;
  return [
    "",
    `scores of ${scored} requests`,
    "  at least  promised  observed",
    ...scoreBands.map(
      ({ score, promised, observed }) =>
        `  ${String(score).padStart(8)}  ${percent(promised).padStart(8)}  ${percent(observed).padStart(8)}`,
    ),
  ];
}

function needed(value: string | undefined, name: string): string {
  if (value === undefined) throw usage(`baseline: expected ${name}`);
  return value;
}

function readBytes(file: string): Uint8Array<ArrayBuffer> {
  try {
    return new Uint8Array(readFileSync(file));
  } catch (cause) {
    throw new OperatingError("ERR_DATA_UNREADABLE", `${file}: cannot be read`, { cause });
  }
}
