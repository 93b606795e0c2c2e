/** Checks what one field cannot show by itself: order of thresholds, names that differ, signals that exist. */

import type { PolicyFile, Spec, Thresholds } from "../gen/sallyport/policy/v1/policy_pb.ts";
import { SIGNALS } from "../signals/catalog.ts";
import { THRESHOLDS } from "./defaults.ts";
import { quote, suggest } from "./problem.ts";
import { memberPath, type Source } from "./source.ts";

/** Reports to `source` whatever does not fit together. */
export function crossCheck({ spec }: PolicyFile, source: Source): void {
  if (spec === undefined) return;
  checkThresholds(spec, source);
  checkRules(spec, source);
  checkSignals(spec, source);
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
  for (const index of spec.rules.keys()) {
    const path = `spec.rules[${index}]`;
    const parts = ["mode", "thresholds", "decision", "watch"];
    if (isGiven(source, path, parts)) continue;
    source.report(path, `at least one of ${parts.join(", ")}`, "none of them");
  }
}

const SIGNAL_NAMES = SIGNALS.map(({ name }) => name);
const SIGNAL_FAMILIES = [...new Set(SIGNAL_NAMES.map((name) => name.slice(0, name.indexOf("."))))];

function checkSignals(spec: Spec, source: Source): void {
  for (const name of Object.keys(spec.signals)) {
    const known = [...SIGNAL_NAMES, ...SIGNAL_FAMILIES];
    if (known.includes(name)) continue;
    const near = suggest(name, known);
    const expected =
      near === undefined ? `a signal, or a family: ${SIGNAL_FAMILIES.join(", ")}` : "a known signal or family";
    source.reportName(memberPath("spec.signals", name), expected, quote(name), near);
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
