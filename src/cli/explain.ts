/** `sallyport explain`: why one decision was taken. */

import { createReadStream } from "node:fs";
import { createInterface } from "node:readline";
import { toJson } from "@bufbuild/protobuf";
import { DecisionSchema } from "../gen/sallyport/local/v1/local_pb.ts";
import { OperatingError } from "../model/errors.ts";
import { type Command, EXIT_GOOD } from "./command.ts";
import { decisionText } from "./decision-text.ts";
import { API_FLAGS, calling, localClient } from "./local-client.ts";

export const explainCommand: Command = {
  name: "explain",
  arguments: "DECISION_ID",
  positionals: [1, 1],
  summary: "Show one decision with all its reasons: a recent one of a running sidecar, or one from a decision log.",
  flags: [
    { name: "log", value: "FILE", summary: "Look in this decision log instead of asking a sidecar." },
    ...API_FLAGS,
  ],
  run: async (invocation, terminal) => {
    const decisionId = invocation.positionals[0] as string;
    const file = invocation.values.log;
    if (file !== undefined) {
      terminal.out(await fromLog(file, decisionId, invocation.json));
      return EXIT_GOOD;
    }
    const client = localClient(invocation, terminal);
    const { decision } = await calling((options) => client.getDecision({ decisionId }, options));
    if (decision === undefined) throw new OperatingError("ERR_NOT_FOUND", "no such decision");
    terminal.out(
      invocation.json
        ? JSON.stringify(toJson(DecisionSchema, decision, { useProtoFieldName: true, alwaysEmitImplicit: true }))
        : decisionText(decision),
    );
    return EXIT_GOOD;
  },
};

/** The log's own line, indented for people. */
async function fromLog(file: string, decisionId: string, json: boolean): Promise<string> {
  const input = createReadStream(file);
  try {
    for await (const line of createInterface({ input })) {
      if (!line.includes(decisionId)) continue;
      const entry = JSON.parse(line) as { decision_id?: unknown };
      if (entry.decision_id === decisionId) return json ? line : JSON.stringify(entry, undefined, 2);
    }
  } catch (cause) {
    throw new OperatingError("ERR_DATA_UNREADABLE", `decision log ${file}: cannot be read`, { cause });
  }
  throw new OperatingError("ERR_NOT_FOUND", `no decision ${decisionId} in ${file}`);
}
