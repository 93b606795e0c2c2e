/** Kubernetes' AdmissionReview (`admission.k8s.io/v1`): what the API server asks, and how it is answered. */

import type { JsonObject } from "../injector/injection.ts";
import { DEPTH_MAX, isDeeper } from "../injector/json.ts";

export const REVIEW_API_VERSION = "admission.k8s.io/v1";
export const REVIEW_KIND = "AdmissionReview";

/** A UID is a UUID of 36 characters; what is echoed is bounded all the same. */
const UID_CHARS_MAX = 128;
/** A namespace is a DNS label (RFC 1123). */
const NAMESPACE_CHARS_MAX = 63;

/** What is asked, as far as it matters here. Names are for logs only: the API server has checked them, we have not. */
export interface AdmissionRequest {
  /** Echoed as it came. */
  readonly uid: string;
  /** `group/version/resource`, with `/subresource` where there is one; the core group is empty, as in `/v1/pods`. */
  readonly resource: string;
  readonly operation: string;
  /** The request's own: an object that is created has its namespace only if its author wrote it there. */
  readonly namespace: string;
  /** `metadata.name`; of an object that is named by the API server, `generateName` and a star. */
  readonly name: string;
  /** `Kind/name` of the controller that owns the object; `undefined`: none does. */
  readonly owner: string | undefined;
  readonly dryRun: boolean;
  /** `undefined`: absent, as in a deletion. */
  readonly object: JsonObject | undefined;
}

export type ParsedReview =
  | { readonly ok: true; readonly request: AdmissionRequest }
  /** `why` says where, what was wanted and what was found; it quotes no value of the object. */
  | { readonly ok: false; readonly why: string };

/** Reads a review from bytes that anybody may have sent. */
export function parseReview(bytes: Uint8Array): ParsedReview {
  let review: unknown;
  try {
    review = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    // Fails as failurePolicy says: without a uid there is nothing to answer.
    return bad("the body", "JSON in UTF-8", `${bytes.length} bytes of something else`);
  }
  if (!isObject(review)) return bad("the body", "an object", nameOf(review));
  if (review.kind !== REVIEW_KIND) return bad("kind", REVIEW_KIND, shown(review.kind));
  if (review.apiVersion !== REVIEW_API_VERSION) {
    return bad("apiVersion", `${REVIEW_API_VERSION} (admissionReviewVersions: [v1])`, shown(review.apiVersion));
  }
  const { request } = review;
  if (!isObject(request)) return bad("request", "an object", nameOf(request));
  const { uid, namespace = "", operation, dryRun = false, object = null } = request;
  if (typeof uid !== "string" || uid === "" || uid.length > UID_CHARS_MAX) {
    return bad("request.uid", `a text of 1 to ${UID_CHARS_MAX} characters`, nameOf(uid));
  }
  if (typeof operation !== "string") return bad("request.operation", "a text", nameOf(operation));
  if (typeof namespace !== "string" || namespace.length > NAMESPACE_CHARS_MAX) {
    return bad("request.namespace", `a text of at most ${NAMESPACE_CHARS_MAX} characters`, nameOf(namespace));
  }
  if (typeof dryRun !== "boolean") return bad("request.dryRun", "true or false", nameOf(dryRun));
  if (object !== null && !isObject(object)) return bad("request.object", "an object or null", nameOf(object));
  if (object !== null && isDeeper(object as JsonObject, DEPTH_MAX)) {
    return bad("request.object", `at most ${DEPTH_MAX} levels of lists and objects`, "more");
  }
  const resource = resourceOf(request);
  if (resource === undefined) {
    return bad("request.resource", "an object with group, version and resource", nameOf(request.resource));
  }
  const parsed = object === null ? undefined : (object as JsonObject);
  return {
    ok: true,
    request: {
      uid,
      resource,
      operation,
      namespace,
      dryRun,
      object: parsed,
      ...describe(request, parsed),
    },
  };
}

/** `AdmissionResponse`; what is `undefined` is left out. */
export interface AdmissionAnswer {
  readonly uid: string;
  readonly allowed: boolean;
  /** JSON Patch as text. */
  readonly patch?: string;
  /** Shown to whoever made the request. */
  readonly warnings: readonly string[];
  /** Written to the audit log, each key below the webhook's name. */
  readonly auditAnnotations: Readonly<Record<string, string>>;
  /** Of a refusal. */
  readonly status?: { readonly code: number; readonly reason: string; readonly message: string };
}

/** The review that answers, as the API server decodes it. */
export function writeReview({ uid, allowed, patch, warnings, auditAnnotations, status }: AdmissionAnswer): string {
  return JSON.stringify({
    apiVersion: REVIEW_API_VERSION,
    kind: REVIEW_KIND,
    response: {
      uid,
      allowed,
      ...(patch === undefined ? {} : { patchType: "JSONPatch", patch: Buffer.from(patch).toString("base64") }),
      ...(status === undefined ? {} : { status: { status: "Failure", ...status } }),
      ...(warnings.length === 0 ? {} : { warnings }),
      auditAnnotations,
    },
  });
}

/**
 * A `Status` (`v1`), as the body of an HTTP error: the API server shows its message to whoever made the request, where
 * any other body is answered by a general phrase.
 */
export function writeStatus(code: number, reason: string, message: string): string {
  return JSON.stringify({ apiVersion: "v1", kind: "Status", metadata: {}, status: "Failure", code, reason, message });
}

function bad(where: string, expected: string, got: string): ParsedReview {
  return { ok: false, why: `AdmissionReview: ${where}: expected ${expected}, got ${got}` };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function nameOf(value: unknown): string {
  if (value === undefined) return "nothing";
  if (value === null) return "null";
  return Array.isArray(value) ? "a list" : `${typeof value === "object" ? "an" : "a"} ${typeof value}`;
}

const SHOWN_CHARS_MAX = 60;

/** A short text of the review's own head, which holds no secrets. */
function shown(value: unknown): string {
  return typeof value === "string" ? JSON.stringify(value.slice(0, SHOWN_CHARS_MAX)) : nameOf(value);
}

function resourceOf({ resource, subResource = "" }: Record<string, unknown>): string | undefined {
  if (!isObject(resource) || typeof subResource !== "string") return undefined;
  const { group = "", version, resource: name } = resource;
  if (typeof group !== "string" || typeof version !== "string" || typeof name !== "string") return undefined;
  return `${group}/${version}/${name}${subResource === "" ? "" : `/${subResource}`}`;
}

const NAME_CHARS_MAX = 253;

function describe(
  request: Record<string, unknown>,
  object: JsonObject | undefined,
): Pick<AdmissionRequest, "name" | "owner"> {
  const metadata: Record<string, unknown> = isObject(object?.metadata) ? object.metadata : {};
  const text = (value: unknown): string => (typeof value === "string" ? value.slice(0, NAME_CHARS_MAX) : "");
  const generated = text(metadata.generateName);
  const name = text(metadata.name) || text(request.name) || (generated === "" ? "" : `${generated}*`);
  const owners: readonly unknown[] = Array.isArray(metadata.ownerReferences) ? metadata.ownerReferences : [];
  const owner = owners.filter(isObject).find(({ controller }) => controller === true);
  return { name, owner: owner === undefined ? undefined : `${text(owner.kind)}/${text(owner.name)}` };
}
