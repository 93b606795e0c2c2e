/** Puts a candidate policy beside the one in force, and tells metrics, log and local API what comes of it. */

import type { MessageInitShape } from "@bufbuild/protobuf";
import { Shadow } from "../check/shadow.ts";
import type { decisionMessage } from "../console/api.ts";
import type { GetShadowResponseSchema } from "../gen/sallyport/local/v1/local_pb.ts";
import type { Line } from "../model/line.ts";
import type { Policy } from "../model/policy.ts";
import { recordOf } from "../telemetry/decision-record.ts";
import { errorFields, type Logger } from "../telemetry/log.ts";
import type { Metrics } from "../telemetry/metrics.ts";

export interface Shadowing {
  /** Judges as the line it was made of does; differences of the candidate are noted on the verdicts. */
  readonly line: Line;
  /**
   * For the local API.
   * @param messageOf what it tells decisions by
   */
  readonly report: (messageOf: typeof decisionMessage) => MessageInitShape<typeof GetShadowResponseSchema>;
}

/**
 * @param candidate the policy to compare with, if there is one just now; the same object until it is replaced
 * @param share of requests, 0..1, that it is asked about
 */
export function shadowed(
  line: Line,
  candidate: () => Policy | undefined,
  share: number,
  metrics: Metrics,
  log: Logger,
): Shadowing {
  let failing: Policy | undefined;
  const shadow = new Shadow({
    candidate,
    share,
    random: Math.random,
    onCheck: () => metrics.shadowChecks.inc(),
    onDifference: (active, other) => metrics.shadowDifferences.inc({ active, candidate: other }),
    onError: (error) => {
      metrics.shadowErrors.inc();
      // Once for each candidate: what fails for one request fails for many.
      if (failing === candidate()) return;
      failing = candidate();
      log.error({ event: "shadow.failed", ...errorFields(error) }, "decisions go on without the candidate policy");
    },
  });
  return {
    line: shadow.around(line),
    report: (messageOf) => {
      const { candidate: policy, checks, errors, differences } = shadow.report();
      if (policy === undefined) return { loaded: false };
      return {
        loaded: true,
        policyName: policy.name,
        policyRevision: policy.revision,
        share,
        checks: BigInt(checks),
        errors: BigInt(errors),
        differences: differences.map(({ active, candidate: other, requests, samples }) => ({
          active,
          candidate: other,
          requests: BigInt(requests),
          samples: samples.map(({ facts, verdict }) => messageOf(recordOf(facts, verdict, 0))),
        })),
      };
    },
  };
}
