/** Checks what one field cannot show by itself: order of thresholds, names that differ, signals that exist. */

import type { PolicyFile, Response, Rule, SignalRule, Spec, Thresholds } from "../gen/sallyport/policy/v1/policy_pb.ts";
import { SIGNALS } from "../signals/catalog.ts";
import { type ConditionCheck, checkCondition, POLICY_CONDITION_CHARS_MAX, POLICY_COST_MAX } from "./conditions.ts";
import { THRESHOLDS } from "./defaults.ts";
import { quote, suggest } from "./problem.ts";
import { memberPath, type Source } from "./source.ts";

/** Reports to `source` whatever does not fit together. */
export function crossCheck({ spec }: PolicyFile, source: Source): void {
  if (spec === undefined) return;
  checkThresholds(spec, source);
  checkRules(spec, source);
  checkConditions(spec.rules, source);
  checkPeerGroups(spec, source);
  checkSignals(spec.signals, "spec.signals", source);
  checkResponse(spec.response, "spec.response", source);
  checkForbidden(spec, source);
  checkLists(spec, source);
  checkLocks(spec, source);
  checkNames(source, "spec.identity.issuers", "issuer", spec.identity?.issuers.map(({ issuer }) => issuer) ?? []);
  const keys = spec.identity?.apiKeys?.keys ?? [];
  checkNames(
    source,
    "spec.identity.apiKeys.keys",
    "name",
    keys.map(({ name }) => name),
  );
  checkNames(
    source,
    "spec.identity.apiKeys.keys",
    "sha256",
    keys.map(({ sha256 }) => sha256.toLowerCase()),
    true,
  );
}

const ORDER = ["challenge", "deny", "terminate"] as const;

function checkThresholds(spec: Spec, source: Source): void {
  checkOrder(spec.thresholds, undefined, "spec.thresholds", source);
  for (const [index, rule] of spec.rules.entries()) {
    if (rule.thresholds === undefined) continue;
    checkOrder(rule.thresholds, spec.thresholds, `spec.rules[${index}].thresholds`, source);
  }
}

/** Thresholds as they will count: the rule's own, else the policy's, else the default. */
function checkOrder(own: Thresholds | undefined, policy: Thresholds | undefined, path: string, source: Source): void {
  if (own === undefined || ORDER.some((name) => source.isFaulty(`${path}.${name}`))) return;
  const effective = (name: (typeof ORDER)[number]): number => own[name] ?? policy?.[name] ?? THRESHOLDS[name];
  for (const [index, upper] of ORDER.entries()) {
    const lower = ORDER[index - 1];
    if (lower === undefined || effective(lower) <= effective(upper)) continue;
    const [name, expected] =
      own[upper] === undefined
        ? [lower, `at most ${upper} (${effective(upper)})`]
        : [upper, `at least ${lower} (${effective(lower)})`];
    source.report(`${path}.${name}`, expected, String(effective(name)));
  }
}

function checkRules(spec: Spec, source: Source): void {
  checkNames(
    source,
    "spec.rules",
    "name",
    spec.rules.map(({ name }) => name),
  );
  for (const [index, rule] of spec.rules.entries()) {
    const path = `spec.rules[${index}]`;
    checkSignals(rule.signals, `${path}.signals`, source);
    checkResponse(rule.response, `${path}.response`, source);
    if ((rule.challenge?.publicOrigins.length ?? 0) > 0) {
      source.report(`${path}.challenge.publicOrigins`, "none: they are the policy's", "some");
    }
    if (rule.onError !== 0 && rule.when === "" && !source.isFaulty(`${path}.when`)) {
      source.report(`${path}.onError`, "a `when` that it is about");
    }
    if (rule.when === "" && source.has(`${path}.when`) && !source.isFaulty(`${path}.when`)) {
      source.report(`${path}.when`, "a condition, or no `when` for a rule without one", '""');
    }
    if (isGiven(source, path, RULE_PARTS)) continue;
    source.report(path, `at least one of ${RULE_PARTS.join(", ")}`, "none of them");
  }
}

/** What a rule can change; one that changes nothing is a mistake. */
const RULE_PARTS = ["mode", "thresholds", "decision", "watch", "signals", "challenge", "response"];

/** Checks every condition, once for each different text, until they cost more than a policy may. */
function checkConditions(rules: readonly Rule[], source: Source): void {
  const checks = new Map<string, ConditionCheck>();
  let chars = 0;
  let cost = 0;
  for (const [index, rule] of rules.entries()) {
    const path = `spec.rules[${index}].when`;
    if (rule.when === "" || source.isFaulty(path)) continue;
    let check = checks.get(rule.when);
    if (check === undefined) {
      chars += rule.when.length;
      if (chars > POLICY_CONDITION_CHARS_MAX) {
        source.report(path, `conditions of at most ${POLICY_CONDITION_CHARS_MAX} characters in all`, "more");
        return;
      }
      check = checkCondition(rule.when);
      checks.set(rule.when, check);
    }
    if (!check.ok) {
      for (const { offset, expected, got, suggestion } of check.faults) {
        source.reportWithin(path, offset, expected, got, suggestion);
      }
      continue;
    }
    cost += check.cost;
    if (cost > POLICY_COST_MAX) {
      source.report(path, `conditions of at most ${POLICY_COST_MAX} operations in all`, "more");
      return;
    }
    if (check.needsScore && Object.keys(rule.signals).length > 0) {
      source.report(path, "no `score` and no `readings` in a rule that changes `signals`: it is looked for before");
    }
  }
}

function checkPeerGroups(spec: Spec, source: Source): void {
  const names = spec.peerGroups.map(({ name }) => name);
  checkNames(source, "spec.peerGroups", "name", names);
  const known = new Set(names);
  for (const [index, { match }] of spec.rules.entries()) {
    for (const [place, name] of (match?.peerGroups ?? []).entries()) {
      const path = `spec.rules[${index}].match.peerGroups[${place}]`;
      if (name === "" || known.has(name) || source.isFaulty(path)) continue;
      source.report(
        path,
        "the name of one of `spec.peerGroups`",
        quote(name),
        suggest(name, names.slice(0, SUGGESTED_MAX)),
      );
    }
  }
}

/** Names that a misspelt one is compared with. */
const SUGGESTED_MAX = 1_000;

/** Headers that Envoy sets itself, or that say where the body ends and the connection goes. */
const FORBIDDEN_HEADERS = new Set([
  "connection",
  "content-length",
  "content-type",
  "date",
  "grpc-message",
  "grpc-status",
  "grpc-status-details-bin",
  "host",
  "keep-alive",
  "proxy-connection",
  "server",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
  "www-authenticate",
]);

function checkResponse(response: Response | undefined, path: string, source: Source): void {
  if (response === undefined) return;
  const seen = new Set<string>();
  for (const [name, value] of Object.entries(response.headers)) {
    const at = memberPath(`${path}.headers`, name);
    const lower = name.toLowerCase();
    if (source.isFaulty(at)) continue;
    if (FORBIDDEN_HEADERS.has(lower) || lower.startsWith("x-sallyport-") || lower.startsWith("x-envoy-")) {
      const wanted =
        lower === "content-type"
          ? "`contentType` of the body"
          : "a header that Envoy and Sallyport do not set themselves";
      source.reportName(at, wanted, quote(name));
    } else if (seen.has(lower)) source.reportName(at, "each header once", `another ${quote(lower)}`);
    seen.add(lower);
    checkPlaceholders(value, at, source);
  }
  for (const part of ["challenge", "deny", "terminate"] as const) {
    const body = response[part];
    if (body === undefined) continue;
    const own = `${path}.${part}`;
    checkPlaceholders(body.text, `${own}.text`, source);
    checkPlaceholders(body.grpcMessage, `${own}.grpcMessage`, source);
    if (body.contentType !== "" && body.text === "" && !source.isFaulty(`${own}.text`)) {
      source.report(`${own}.contentType`, "a `text` that it is about");
    }
  }
}

const PLACEHOLDERS = ["decision_id", "decision", "principal"];

/** Words in braces that are nearly one of ours are mistakes; other braces are the text's own. */
function checkPlaceholders(text: string, path: string, source: Source): void {
  if (source.isFaulty(path)) return;
  for (const [whole, name] of text.matchAll(/\{([A-Za-z_]{1,32})\}/g)) {
    if (name === undefined || PLACEHOLDERS.includes(name)) continue;
    const near = suggest(name, PLACEHOLDERS);
    if (near !== undefined)
      source.report(path, `one of ${PLACEHOLDERS.map((known) => `{${known}}`).join(", ")}`, quote(whole), `{${near}}`);
  }
}

const SIGNAL_NAMES = SIGNALS.map(({ name }) => name);
const SIGNAL_FAMILIES = [...new Set(SIGNAL_NAMES.map((name) => name.slice(0, name.indexOf("."))))];

function checkSignals(rules: Readonly<Record<string, SignalRule>>, path: string, source: Source): void {
  for (const name of Object.keys(rules)) {
    const known = [...SIGNAL_NAMES, ...SIGNAL_FAMILIES];
    if (known.includes(name)) continue;
    const near = suggest(name, known);
    const expected =
      near === undefined ? `a signal, or a family: ${SIGNAL_FAMILIES.join(", ")}` : "a known signal or family";
    source.reportName(memberPath(path, name), expected, quote(name), near);
  }
}

function checkForbidden(spec: Spec, source: Source): void {
  const forbid = spec.posture?.forbid ?? [];
  checkNames(
    source,
    "spec.posture.forbid",
    "name",
    forbid.map(({ name }) => name),
  );
  for (const [index, condition] of forbid.entries()) {
    const path = `spec.posture.forbid[${index}]`;
    if (["in", "notIn"].some((part) => source.isFaulty(`${path}.${part}`))) continue;
    const given = [condition.in, condition.notIn].filter((values) => values.length > 0).length;
    if (given !== 1) source.report(path, "either `in` or `notIn` with values", given === 0 ? "neither" : "both");
  }
}

function checkLists(spec: Spec, source: Source): void {
  const addresses = spec.lists?.addresses ?? [];
  const fingerprints = spec.lists?.fingerprints ?? [];
  checkNames(
    source,
    "spec.lists.addresses",
    "name",
    addresses.map(({ name }) => name),
  );
  checkNames(
    source,
    "spec.lists.fingerprints",
    "name",
    fingerprints.map(({ name }) => name),
  );
  const entries = [
    ...addresses.map((_, index) => [`spec.lists.addresses[${index}]`, "ranges"] as const),
    ...fingerprints.map((_, index) => [`spec.lists.fingerprints[${index}]`, "values"] as const),
  ];
  for (const [path, inside] of entries) {
    if (!isGiven(source, path, [inside, "file"])) source.report(path, `\`${inside}\` or \`file\``, "neither");
  }
}

function checkLocks(spec: Spec, source: Source): void {
  checkNames(
    source,
    "spec.locks",
    "id",
    spec.locks.map(({ id }) => id),
  );
  for (const [index, { scope }] of spec.locks.entries()) {
    if (scope === undefined) continue;
    const { $typeName: _, $unknown: __, ...parts } = scope;
    const path = `spec.locks[${index}].scope`;
    // An empty text is no part: a lock without parts would lock everybody.
    const given = Object.values(parts).some((part) => part !== "");
    if (given || Object.keys(parts).some((part) => source.isFaulty(`${path}.${part}`))) continue;
    source.report(path, `at least one of ${Object.keys(parts).join(", ")}`, "none of them");
  }
}

/** Whether one of the parts is there, or was meant to be. */
function isGiven(source: Source, path: string, parts: readonly string[]): boolean {
  return parts.some((part) => source.has(`${path}.${part}`) || source.isFaulty(`${path}.${part}`));
}

/** Reports every name that an earlier entry of the list has. */
function checkNames(source: Source, path: string, key: string, names: readonly string[], secret = false): void {
  const first = new Map<string, number>();
  for (const [index, name] of names.entries()) {
    const at = `${path}[${index}].${key}`;
    if (name === "" || source.isFaulty(at)) continue;
    const earlier = first.get(name);
    if (earlier === undefined) first.set(name, index);
    else source.report(at, `another ${key} than ${path}[${earlier}]`, secret ? "the same" : quote(name));
  }
}
