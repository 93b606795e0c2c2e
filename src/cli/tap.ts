/** `sallyport tap`: decisions as they are made. */

import { toJson } from "@bufbuild/protobuf";
import { DecisionSchema } from "../gen/sallyport/local/v1/local_pb.ts";
import { type Command, EXIT_GOOD, usage } from "./command.ts";
import { decisionLineText } from "./decision-text.ts";
import { API_FLAGS, apiError, localClient } from "./local-client.ts";

export const tapCommand: Command = {
  name: "tap",
  arguments: "",
  positionals: [0, 0],
  summary: "Print decisions as a running sidecar makes them, until interrupted.",
  flags: [
    { name: "recent", value: "COUNT", summary: "Begin with this many past decisions; 0 by default, at most 1000." },
    { name: "score-min", value: "SCORE", summary: "Leave out lower scores." },
    { name: "count", value: "COUNT", summary: "End after this many decisions." },
    ...API_FLAGS,
  ],
  run: async (invocation, terminal) => {
    const recent = number(invocation.values.recent, "recent", 0, 1_000, 0);
    const scoreMin = number(invocation.values["score-min"], "score-min", 0, 100, 0);
    const count = number(invocation.values.count, "count", 1, 1e9, Number.POSITIVE_INFINITY);
    const client = localClient(invocation, terminal);
    let shown = 0;
    const ended = new AbortController();
    try {
      for await (const { decision } of client.watchDecisions({ recent, scoreMin }, { signal: ended.signal })) {
        if (decision === undefined) continue;
        terminal.out(
          invocation.json
            ? JSON.stringify(toJson(DecisionSchema, decision, { useProtoFieldName: true, alwaysEmitImplicit: true }))
            : decisionLineText(decision),
        );
        if (++shown >= count) break;
      }
    } catch (error) {
      throw apiError(error);
    } finally {
      ended.abort();
    }
    return EXIT_GOOD;
  },
};

function number(text: string | undefined, name: string, least: number, most: number, fallback: number): number {
  if (text === undefined) return fallback;
  const value = Number(text);
  if (!(value >= least && value <= most))
    throw usage(`tap: --${name}: expected ${least}..${most}, got ${JSON.stringify(text)}`);
  return value;
}
