/** Writes the policy's schema as JSON Schema (draft 2020-12), for editors: the same keys, types, ranges and patterns. */

import { type DescField, type DescMessage, getOption, hasOption, ScalarType } from "@bufbuild/protobuf";
import { type Duration, DurationSchema, TimestampSchema } from "@bufbuild/protobuf/wkt";
import { type FieldRules, field as rulesOption } from "@bufbuild/protovalidate/gen/buf/validate/validate_pb.js";
import { Form, form as formOption, plain as plainOption } from "../gen/sallyport/policy/v1/options_pb.ts";
import { PolicyFileSchema } from "../gen/sallyport/policy/v1/policy_pb.ts";
import { SIGNALS } from "../signals/catalog.ts";
import { DURATION_EXPECTED, DURATION_PATTERN, MOMENT_EXPECTED, MOMENT_PATTERN } from "./scalars.ts";

export type JsonSchema = { readonly [keyword: string]: unknown };

/**
 * What one field cannot show by itself, as far as JSON Schema can say it; `sallyport check` says the rest.
 * By message, as `cross-check.ts` has it.
 */
const TOGETHER: Readonly<Record<string, JsonSchema>> = {
  Rule: anyOf("mode", "thresholds", "decision", "watch", "signals", "challenge", "response"),
  LockScope: { minProperties: 1 },
  Forbidden: { oneOf: [{ required: ["in"] }, { required: ["notIn"] }] },
  AddressList: anyOf("ranges", "file"),
  FingerprintList: anyOf("values", "file"),
};

function anyOf(...names: readonly string[]): JsonSchema {
  return { anyOf: names.map((name) => ({ required: [name] })) };
}

/** Names of signals and of their families. */
const SIGNAL_KEYS = [...new Set(SIGNALS.flatMap(({ name }) => [name.slice(0, name.indexOf(".")), name]))];

const FORMS: Readonly<Partial<Record<Form, JsonSchema>>> = {
  // At most 16 wildcards; printable characters.
  [Form.GLOB]: { pattern: "^(?=[!-~\\u00a1-\\uffff]*$)(?:[^*]*\\*+){0,16}[^*]*$" },
  [Form.RANGE]: { pattern: "^(?:[0-9.]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)(?:/[0-9]{1,3})?$" },
  [Form.URL]: { pattern: "^https?://" },
};

/** @param comment what the .proto file says of `Message`, `Message.field_name` or `Enum.VALUE` */
export function policyJsonSchema(comment: (name: string) => string): JsonSchema {
  const definitions: Record<string, JsonSchema> = {};
  const root = messageSchema(PolicyFileSchema, definitions, comment);
  return {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    $id: "https://sallyport.dev/schemas/policy-v1.json",
    title: "Sallyport policy",
    ...root,
    $defs: definitions,
  };
}

type Comment = (name: string) => string;

function messageSchema(message: DescMessage, definitions: Record<string, JsonSchema>, comment: Comment): JsonSchema {
  const required = message.fields.filter((field) => rulesOf(field)?.required === true).map(({ jsonName }) => jsonName);
  const choices = message.oneofs.map((oneof) => ({
    oneOf: oneof.fields.map(({ jsonName }) => ({ required: [jsonName] })),
  }));
  return {
    type: "object",
    description: comment(message.name),
    properties: Object.fromEntries(
      message.fields.map((field) => [field.jsonName, fieldSchema(message, field, definitions, comment)]),
    ),
    additionalProperties: false,
    ...(required.length === 0 ? {} : { required }),
    ...choices[0],
    ...TOGETHER[message.name],
  };
}

function fieldSchema(
  message: DescMessage,
  field: DescField,
  definitions: Record<string, JsonSchema>,
  comment: Comment,
): JsonSchema {
  const description = comment(`${message.name}.${field.name}`);
  const rules = rulesOf(field);
  const one = (own: FieldRules | undefined) => valueSchema(field, own, definitions, comment);
  if (field.fieldKind === "list") {
    const list = rules?.type.case === "repeated" ? rules.type.value : undefined;
    return {
      description,
      type: "array",
      items: one(list?.items),
      ...(rules?.required === true ? { minItems: 1 } : {}),
      ...(list === undefined || list.maxItems === 0n ? {} : { maxItems: Number(list.maxItems) }),
      ...(list?.unique === true ? { uniqueItems: true } : {}),
    };
  }
  if (field.fieldKind === "map") {
    const map = rules?.type.case === "map" ? rules.type.value : undefined;
    const isSignals = field.message?.name === "SignalRule";
    return {
      description,
      type: "object",
      additionalProperties: one(map?.values),
      ...(map === undefined || map.maxPairs === 0n ? {} : { maxProperties: Number(map.maxPairs) }),
      ...(isSignals ? { propertyNames: { enum: SIGNAL_KEYS } } : {}),
      ...(map?.keys === undefined ? {} : { propertyNames: textSchema(map.keys) }),
    };
  }
  return { description, ...one(rules) };
}

/** One value: of a singular field, or an entry of a list or map. */
function valueSchema(
  field: DescField,
  rules: FieldRules | undefined,
  definitions: Record<string, JsonSchema>,
  comment: Comment,
): JsonSchema {
  const { message } = field;
  if (message !== undefined) {
    if (message.typeName === DurationSchema.typeName) {
      return {
        type: "string",
        pattern: DURATION_PATTERN.source,
        $comment: `${DURATION_EXPECTED}${durationRange(rules)}`,
      };
    }
    if (message.typeName === TimestampSchema.typeName) {
      return { type: "string", format: "date-time", pattern: MOMENT_PATTERN.source, $comment: MOMENT_EXPECTED };
    }
    if (definitions[message.name] === undefined) {
      definitions[message.name] = {};
      definitions[message.name] = messageSchema(message, definitions, comment);
    }
    return { $ref: `#/$defs/${message.name}` };
  }
  if (field.enum !== undefined) {
    const { name, values } = field.enum;
    const named = values.filter(({ number }) => number !== 0);
    return {
      oneOf: named.map((value) => ({
        const: value.localName.toLowerCase(),
        description: comment(`${name}.${value.name}`),
      })),
    };
  }
  switch (field.scalar) {
    case ScalarType.BOOL:
      return { type: "boolean" };
    case ScalarType.UINT32:
      return { type: "integer", ...bounds(rules) };
    case ScalarType.DOUBLE:
      return { type: "number", ...bounds(rules) };
    default: {
      const text = { ...textSchema(rules), ...FORMS[getOption(field, formOption)] };
      // Taken as they are written: `true` and `1.10` are texts here. Length and pattern hold for texts only.
      return getOption(field, plainOption) ? { ...text, type: ["string", "number", "boolean"] } : text;
    }
  }
}

function rulesOf(field: DescField): FieldRules | undefined {
  return hasOption(field, rulesOption) ? getOption(field, rulesOption) : undefined;
}

function textSchema(rules: FieldRules | undefined): JsonSchema {
  const text = rules?.type.case === "string" ? rules.type.value : undefined;
  if (text === undefined) return { type: "string", ...(rules?.required === true ? { minLength: 1 } : {}) };
  if (text.const !== "") return { type: "string", const: text.const };
  if (text.in.length > 0) return { type: "string", enum: text.in };
  const minLength = Math.max(Number(text.minLen), rules?.required === true ? 1 : 0);
  return {
    type: "string",
    ...(minLength === 0 ? {} : { minLength }),
    ...(text.maxLen === 0n ? {} : { maxLength: Number(text.maxLen) }),
    ...(text.pattern === "" ? {} : { pattern: text.pattern }),
  };
}

function bounds(rules: FieldRules | undefined): JsonSchema {
  if (rules?.type.case !== "double" && rules?.type.case !== "uint32") return {};
  const { greaterThan, lessThan } = rules.type.value;
  return {
    ...(greaterThan.case === "gte" ? { minimum: greaterThan.value } : {}),
    ...(lessThan.case === "lte" ? { maximum: lessThan.value } : {}),
  };
}

function durationRange(rules: FieldRules | undefined): string {
  if (rules?.type.case !== "duration") return "";
  const { greaterThan, lessThan } = rules.type.value;
  return `, from ${seconds(greaterThan.value)} to ${seconds(lessThan.value)}`;
}

function seconds(duration: Duration | undefined): string {
  return `${duration?.seconds ?? 0n}s`;
}
