/** YAML as kubectl and Helm read it, which is neither of the specification's versions quite. */

import type { CollectionTag, DocumentOptions, ParseOptions, ScalarTag, SchemaOptions, TagId } from "yaml";

type Tag = CollectionTag | ScalarTag | TagId;

/** Of YAML 1.1, what they do not know: to them these are texts. */
const UNKNOWN = ["binary", "omap", "pairs", "set", "timestamp"].map((name) => `tag:yaml.org,2002:${name}`);

/** Of YAML 1.2 and older than 1.1's other form: `0o644`. */
const OCTAL: ScalarTag = {
  identify: () => false,
  default: true,
  tag: "tag:yaml.org,2002:int",
  test: /^[-+]?0o[0-7]+$/,
  resolve: (text) => (text.startsWith("-") ? -1 : 1) * Number.parseInt(text.replace(/^[-+]?0o/, ""), 8),
};

/**
 * Options for the `yaml` package: `0644` is 420, `yes` is true, `<<` merges (sigs.k8s.io/yaml, whose parser is go-yaml 2).
 * Read otherwise, a file's mode would change, and a pod whose spec is merged from an anchor would seem to be none.
 * Numbers that are not changed are written as they stood; texts that would be read as something else, in quotes.
 */
export const KUBERNETES_YAML: DocumentOptions & ParseOptions & SchemaOptions = {
  schema: "yaml-1.1",
  logLevel: "error", // a warning would go to standard error by itself, with a piece of the text
  customTags: (tags) => [OCTAL, ...tags.filter(isKnown)].map(asWritten),
};

function isKnown(tag: Tag): boolean {
  // Base 60 is YAML 1.1's: to them `12:30` is a text.
  return typeof tag === "string" || (!UNKNOWN.includes(tag.tag) && !("format" in tag && tag.format === "TIME"));
}

function asWritten(tag: Tag): Tag {
  if (typeof tag === "string" || !/:(?:int|float)$/.test(tag.tag)) return tag;
  const number = tag as ScalarTag;
  return {
    ...number,
    stringify: (item, context, onComment, onChompKeep) =>
      item.source ?? number.stringify?.(item, context, onComment, onChompKeep) ?? String(item.value),
  };
}
