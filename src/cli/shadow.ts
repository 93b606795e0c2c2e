/** `sallyport shadow`: what the candidate policy would have decided otherwise. */

import { toJson } from "@bufbuild/protobuf";
import { type GetShadowResponse, GetShadowResponseSchema } from "../gen/sallyport/local/v1/local_pb.ts";
import { OperatingError } from "../model/errors.ts";
import { type Command, EXIT_GOOD } from "./command.ts";
import { decisionLineText, reasonsText } from "./decision-text.ts";
import { API_FLAGS, calling, localClient } from "./local-client.ts";

export const shadowCommand: Command = {
  name: "shadow",
  arguments: "",
  positionals: [0, 0],
  summary:
    "Show what the candidate policy of a running sidecar would have decided otherwise, with an even sample of the requests.",
  flags: [{ name: "counts", value: undefined, summary: "Leave out the sampled requests." }, ...API_FLAGS],
  run: async (invocation, terminal) => {
    const client = localClient(invocation, terminal);
    const report = await calling((options) => client.getShadow({}, options));
    if (!report.loaded) {
      throw new OperatingError(
        "ERR_NOT_FOUND",
        "no candidate policy is loaded beside the one in force; `serve --shadow POLICY` loads one",
      );
    }
    const withSamples = !invocation.switches.has("counts");
    if (invocation.json) {
      const shown = withSamples
        ? report
        : { ...report, differences: report.differences.map((difference) => ({ ...difference, samples: [] })) };
      terminal.out(
        JSON.stringify(toJson(GetShadowResponseSchema, shown, { useProtoFieldName: true, alwaysEmitImplicit: true })),
      );
    } else for (const line of shadowText(report, withSamples)) terminal.out(line);
    return EXIT_GOOD;
  },
};

function shadowText(report: GetShadowResponse, withSamples: boolean): readonly string[] {
  const differing = report.differences.reduce((sum, { requests }) => sum + Number(requests), 0);
  const asked = Number(report.checks);
  const share = asked === 0 ? 0 : differing / asked;
  const lines = [
    `candidate   ${report.policyName} ${report.policyRevision}`,
    `asked       ${asked} requests${report.share === 1 ? "" : ` (a share of ${report.share})`}, ${report.errors} not judged`,
    `otherwise   ${differing} (${(100 * share).toFixed(2)} %)`,
  ];
  for (const { active, candidate, requests, samples } of report.differences) {
    lines.push("", `${active} -> ${candidate}: ${requests}`);
    if (!withSamples) continue;
    for (const sample of samples) {
      lines.push(`  ${decisionLineText(sample)}  ${sample.decisionId}`);
      const { shadow } = sample;
      if (shadow === undefined) continue;
      const why = reasonsText(shadow.reasons);
      lines.push(`    candidate: ${shadow.decision} ${shadow.score.toFixed(1)}, rule ${shadow.rule}${why}`);
    }
  }
  return lines;
}
