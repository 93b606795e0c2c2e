/** From an admission request to its answer: a pure function, so that a dry run and the real thing cannot differ. */

import type { Injection, InjectionContext, JsonObject } from "../injector/injection.ts";
import type { AdmissionAnswer, AdmissionRequest } from "./review.ts";

/** What is injected by, taken once per request. */
export interface InForce {
  /** `injectPod` by the configuration in force. */
  readonly inject: (pod: JsonObject, context: InjectionContext) => Injection;
  /** Hash of that configuration, so that replicas and audit logs can be compared. */
  readonly hash: string;
  /** Whether this cluster runs native sidecars; see `NativeSidecars`. */
  readonly native: { readonly supported: boolean; readonly doubt: string | undefined };
}

/** What became of a request. */
export type Outcome = "injected" | "unchanged" | "refused";

export interface Answered {
  readonly outcome: Outcome;
  /** Why the Pod stays as it is or is refused, at most 1,000 characters; `undefined` of an injected one. */
  readonly why: string | undefined;
  readonly answer: AdmissionAnswer;
}

/** Set by kubelets on the image of a static Pod in the API (`kubernetes.io/config.mirror`). */
const MIRROR = "kubernetes.io/config.mirror";
/** The API server cuts warnings that are longer together than 4,096 bytes, and each then to 256 characters. */
const WARNING_CHARS_MAX = 256;
const WARNINGS_MAX = 16;
/** A message of a refusal is shown by kubectl and kept in events, which take 1,024 characters. */
const MESSAGE_CHARS_MAX = 1_000;

/**
 * Decides on one request.
 *
 * A Pod that cannot be injected although it should be is refused (`allowed: false`, 403 Forbidden): running it without
 * its sidecar would be the silent hole that the namespace's label rules out. Whoever wants that says so on the Pod
 * (`sallyport.dev/inject: "false"`). What is no new Pod is let through untouched with a warning: it takes a wrong
 * MutatingWebhookConfiguration to ask, and no sidecar is missing by it.
 *
 * @throws what `inject` throws: a bug, for the caller to answer with HTTP 500
 */
export function answerReview(request: AdmissionRequest, { inject, hash, native }: InForce): Answered {
  const { uid, resource, operation, namespace, object } = request;
  const unchanged = (why: string, warnings: readonly string[] = []): Answered => ({
    outcome: "unchanged",
    why,
    answer: {
      uid,
      allowed: true,
      warnings: warnings.map(tidy),
      auditAnnotations: { injection: "unchanged", reason: tidy(why), config: hash },
    },
  });
  if (resource !== "/v1/pods" || operation !== "CREATE" || object === undefined) {
    const why = `asked about ${operation} of ${resource}; only Pods that are created are injected`;
    return unchanged(why, [`sallyport: ${why}: look at the rules of the MutatingWebhookConfiguration`]);
  }
  if (isMirror(object)) {
    const why = "a static Pod runs from its node's file, whatever its image in the API says";
    return unchanged(why, [`sallyport: not injected: ${why}`]);
  }
  const injection = inject(object, { namespace, nativeSidecars: native.supported });
  switch (injection.kind) {
    case "injected": {
      const doubts = native.doubt === undefined ? [] : [`sallyport: ${native.doubt}`];
      return {
        outcome: "injected",
        why: undefined,
        answer: {
          uid,
          allowed: true,
          patch: JSON.stringify(injection.patch),
          warnings: [...injection.warnings, ...doubts].slice(0, WARNINGS_MAX).map(tidy),
          auditAnnotations: { injection: "injected", config: hash },
        },
      };
    }
    case "unchanged":
      return unchanged(injection.why);
    case "refused":
      return {
        outcome: "refused",
        why: shorten(injection.why, MESSAGE_CHARS_MAX),
        answer: {
          uid,
          allowed: false,
          warnings: [],
          auditAnnotations: { injection: "refused", reason: tidy(injection.why), config: hash },
          status: { code: 403, reason: "Forbidden", message: shorten(injection.why, MESSAGE_CHARS_MAX) },
        },
      };
    default:
      throw new RangeError(`no such injection: ${JSON.stringify(injection satisfies never)}`);
  }
}

function isMirror({ metadata }: JsonObject): boolean {
  if (typeof metadata !== "object" || metadata === null || !("annotations" in metadata)) return false;
  const { annotations } = metadata;
  return typeof annotations === "object" && annotations !== null && MIRROR in annotations;
}

/** A warning travels in a header: what is not printable there would make the API server drop it. */
function tidy(text: string): string {
  return shorten(text, WARNING_CHARS_MAX);
}

function shorten(text: string, charsMax: number): string {
  const cut = text.length <= charsMax ? text : `${text.slice(0, charsMax - 1)}…`;
  return cut.replace(/[\p{Cc}\p{Cs}]+/gu, " ");
}
