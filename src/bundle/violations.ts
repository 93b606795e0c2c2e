/** Reports where a message breaks the rules that its schema states, in words and with the place in the file. */

import { type DescMessage, getOption, type MessageShape } from "@bufbuild/protobuf";
import type { Path } from "@bufbuild/protobuf/reflect";
import type { Duration } from "@bufbuild/protobuf/wkt";
import { createValidator, type Violation } from "@bufbuild/protovalidate";
import { type FieldRules, field as rulesOption } from "@bufbuild/protovalidate/gen/buf/validate/validate_pb.js";
import { quote } from "./problem.ts";
import { memberPath, type Source } from "./source.ts";

const validator = createValidator();

/** Reports every broken rule of which nothing was reported before. */
export function reportViolations<Desc extends DescMessage>(
  schema: Desc,
  message: MessageShape<Desc>,
  source: Source,
): void {
  const result = validator.validate(schema, message);
  // A rule that cannot be run is a bug of the schema, not of the file.
  if (result.kind === "error") throw result.error;
  for (const violation of result.violations ?? []) {
    const path = pathText(violation.field);
    if (source.isFaulty(path)) continue;
    const last = violation.field.at(-1);
    if (violation.forKey && last?.kind === "map_sub")
      source.reportName(path, wanted(violation), quote(String(last.key)));
    else source.report(path, wanted(violation));
  }
}

function pathText(path: Path): string {
  let text = "";
  for (const part of path) {
    if (part.kind === "field") text = memberPath(text, part.jsonName);
    else if (part.kind === "list_sub") text = `${text}[${part.index}]`;
    else if (part.kind === "map_sub") text = memberPath(text, String(part.key));
  }
  return text;
}

function wanted(violation: Violation): string {
  const last = violation.field.at(-1);
  if (last?.kind === "oneof") return `one of ${last.fields.map((field) => field.jsonName).join(", ")}`;
  const rules = rulesOf(violation);
  const text = rules === undefined ? undefined : wantedBy(rules, violation.ruleId);
  return text ?? violation.message.replace(/^(?:value )?must (?:be )?/, "");
}

/** The rules of the field, or those of its entries when an entry broke them. */
function rulesOf({ field: path, forKey }: Violation): FieldRules | undefined {
  const field = path.findLast((part) => part.kind === "field");
  if (field === undefined) return undefined;
  const rules = getOption(field, rulesOption);
  const last = path.at(-1);
  if (last?.kind === "list_sub" && rules.type.case === "repeated") return rules.type.value.items;
  if (last?.kind === "map_sub" && rules.type.case === "map")
    return forKey ? rules.type.value.keys : rules.type.value.values;
  return rules;
}

/** In words, what the rules want; for a missing value, what it should have been. */
function wantedBy(rules: FieldRules, ruleId: string): string | undefined {
  switch (rules.type.case) {
    case "double":
    case "uint32": {
      const { greaterThan, lessThan } = rules.type.value;
      return `${greaterThan.value ?? ""}..${lessThan.value ?? ""}`;
    }
    case "duration": {
      const { greaterThan, lessThan } = rules.type.value;
      return `${durationText(greaterThan.value)}..${durationText(lessThan.value)}`;
    }
    case "string":
      return wantedText(rules);
    case "repeated":
      if (ruleId === "repeated.min_items") return `${rules.type.value.minItems} entries or more`;
      return ruleId === "repeated.unique" ? "entries that differ" : `at most ${rules.type.value.maxItems} entries`;
    case "map":
      return `at most ${rules.type.value.maxPairs} entries`;
    default:
      return ruleId === "required" ? "a value" : undefined;
  }
}

function wantedText(rules: FieldRules): string {
  if (rules.type.case !== "string") return "a value";
  const { const: constant, in: choices, pattern, maxLen, minLen } = rules.type.value;
  if (constant !== "") return JSON.stringify(constant);
  if (choices.length > 0) return `one of ${choices.join(", ")}`;
  const length = maxLen === 0n ? "" : ` of ${minLen > 0n || rules.required ? 1 : 0}..${maxLen} characters`;
  return pattern === "" ? `a text${length}` : `a text${length} like ${pattern}`;
}

function durationText(duration: Duration | undefined): string {
  const seconds = Number(duration?.seconds ?? 0n);
  if (seconds > 0 && seconds % 86_400 === 0) return `${seconds / 86_400}d`;
  if (seconds > 0 && seconds % 3_600 === 0) return `${seconds / 3_600}h`;
  return seconds > 0 && seconds % 60 === 0 ? `${seconds / 60}m` : `${seconds}s`;
}
