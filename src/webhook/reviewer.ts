/** Reviews as they come and go over HTTP: answered, counted, and told in the log without what is in them. */

import { errorFields, type Logger } from "../telemetry/log.ts";
import { type Answered, answerReview, type InForce } from "./answer.ts";
import type { Reply } from "./listener.ts";
import type { WebhookMetrics } from "./metrics.ts";
import { type AdmissionRequest, parseReview, writeReview, writeStatus } from "./review.ts";

export interface Telling {
  readonly metrics: WebhookMetrics;
  readonly log: Logger;
  /** Told of what is no review: anybody may send that. */
  readonly onInvalid: (why: string) => void;
}

/** From a body to what is sent back, as HTTP has it. Never throws. */
export function reviewBody(body: Buffer, inForce: InForce, { metrics, log, onInvalid }: Telling): Reply {
  const startedMs = performance.now();
  const parsed = parseReview(body);
  if (!parsed.ok) {
    metrics.reviews.inc({ result: "invalid", dry_run: "false" });
    onInvalid(parsed.why);
    return { status: 400, body: writeStatus(400, "BadRequest", `sallyport: ${parsed.why}`) };
  }
  const { request } = parsed;
  const dry_run = String(request.dryRun);
  let answered: Answered;
  try {
    answered = answerReview(request, inForce);
  } catch (error) {
    // Fails as failurePolicy says: whether a Pod may run without its sidecar is not decided by a fault of ours.
    metrics.reviews.inc({ result: "failed", dry_run });
    log.error({ event: "review.failed", ...requestFields(request), ...errorFields(error) }, "answered with 500");
    const message = `sallyport: internal error; the webhook's log has it with uid ${request.uid}`;
    return { status: 500, body: writeStatus(500, "InternalError", message) };
  }
  metrics.reviews.inc({ result: answered.outcome, dry_run });
  metrics.reviewSeconds.observe((performance.now() - startedMs) / 1_000);
  tell(request, answered, inForce.hash, log);
  return { status: 200, body: writeReview(answered.answer) };
}

function tell(request: AdmissionRequest, { outcome, why, answer }: Answered, config: string, log: Logger): void {
  const fields = { event: `pod.${outcome}`, ...requestFields(request), config };
  if (outcome === "injected") log.info({ ...fields, warnings: answer.warnings.length }, "sidecar injected");
  else if (outcome === "refused") log.warn({ ...fields, why }, "refused");
  // One that opted out is no news; one that was not a Pod's creation is told to whoever asked.
  else log.debug({ ...fields, why }, "let through as it is");
}

function requestFields({ uid, namespace, name, owner, dryRun }: AdmissionRequest): Record<string, string | boolean> {
  return { uid, namespace, pod: name, ...(owner === undefined ? {} : { owner }), dry_run: dryRun };
}
