/** Reads YAML or JSON text into a tree of nodes that know their place, within stated bounds. */

import { type Alias, type Document, isAlias, Lexer, LineCounter, type Node, parseAllDocuments, visit } from "yaml";
import { fileProblem, type Problem, quote } from "./problem.ts";
import { Source } from "./source.ts";

/** Most bytes of one text. */
export const TEXT_BYTES_MAX = 5 * 1024 * 1024;

/** Most tokens of one text: the parser takes some 800 bytes for each. */
const TOKENS_MAX = 500_000;

/** Most brackets open at once, list marks on one line, and spaces before a line: the parser is recursive. */
const NESTING_MAX = 100;

/** Most nodes that aliases may stand for, all together: a few lines of aliases to aliases could stand for billions. */
const ALIASED_NODES_MAX = 10_000;

/** Most problems that are listed of one file. */
const SYNTAX_PROBLEMS_MAX = 100;

/** The nodes of one document. */
export interface Tree {
  readonly root: Node | null;
  /** The node itself, or what its alias stands for; `undefined` when that was refused, and reported. */
  resolve(node: Node | null): Node | null | undefined;
}

export type TreeResult =
  | { readonly ok: true; readonly tree: Tree; readonly source: Source }
  | { readonly ok: false; readonly problems: readonly Problem[] };

/** Reads one document. Syntax errors are reported without repeating the text. */
export function parseTree(text: string, file: string): TreeResult {
  const bytes = Buffer.byteLength(text);
  if (bytes > TEXT_BYTES_MAX) {
    return { ok: false, problems: [fileProblem(file, `at most ${TEXT_BYTES_MAX} bytes`, String(bytes))] };
  }
  const excess = findExcess(text);
  if (excess !== undefined) return { ok: false, problems: [fileProblem(file, excess.expected, excess.got)] };
  const lines = new LineCounter();
  const source = new Source(file, lines, text);
  const documents = parseAllDocuments(text, { lineCounter: lines, prettyErrors: false, uniqueKeys: false });
  const document = Array.isArray(documents) ? documents[0] : undefined;
  reportSyntax(document === undefined ? [] : (documents as Document.Parsed[]), source);
  if (document === undefined) source.reportAt(0, "", "a mapping", "an empty file");
  if (document === undefined || source.problems.length > 0) return { ok: false, problems: source.problems };
  return { ok: true, tree: { root: document.contents, resolve: resolver(document, source) }, source };
}

/** Counts tokens and nesting before anything is built from them. */
function findExcess(text: string): { readonly expected: string; readonly got: string } | undefined {
  let tokens = 0;
  let brackets = 0;
  let marks = 0;
  for (const token of new Lexer().lex(text)) {
    tokens++;
    if (token === "[" || token === "{") brackets++;
    else if (token === "]" || token === "}") brackets = Math.max(0, brackets - 1);
    else if (brackets === 0 && (token === "-" || token === "?")) marks++;
    else if (token === "\n" || token === "\r\n") marks = 0;
    const indented = token.length > NESTING_MAX && /^ +$/.test(token);
    if (brackets > NESTING_MAX || marks > NESTING_MAX || indented) {
      return { expected: `values nested at most ${NESTING_MAX} deep`, got: "deeper nesting" };
    }
    if (tokens > TOKENS_MAX) return { expected: `at most ${TOKENS_MAX} YAML tokens`, got: "more" };
  }
  return undefined;
}

function reportSyntax(documents: readonly Document.Parsed[], source: Source): void {
  const faults = documents.flatMap((document) => [...document.errors, ...document.warnings]);
  for (const fault of faults.slice(0, SYNTAX_PROBLEMS_MAX)) {
    source.reportAt(fault.pos[0], "", "valid YAML", SYNTAX[fault.code] ?? `what it may not hold (${fault.code})`);
  }
  if (faults.length > SYNTAX_PROBLEMS_MAX) {
    source.reportAt(faults[SYNTAX_PROBLEMS_MAX]!.pos[0], "", "valid YAML", `${faults.length} errors in all`);
  }
  const second = documents[1];
  if (second !== undefined) source.reportAt(second.range[0], "", "one document", `${documents.length} documents`);
}

/** The parser's codes in words; its own messages repeat parts of the text, which may be secret. */
const SYNTAX: Readonly<Record<string, string>> = {
  ALIAS_PROPS: "an alias with an anchor or a tag",
  BAD_ALIAS: "an alias without a name",
  BAD_COLLECTION_TYPE: "a collection of another kind than its tag says",
  BAD_DIRECTIVE: "a directive that YAML does not know",
  BAD_DQ_ESCAPE: "an unknown escape in a double-quoted text",
  BAD_INDENT: "a wrong indentation, or a bracket that is not closed",
  BAD_PROP_ORDER: "an anchor or a tag in the wrong place",
  BAD_SCALAR_START: "a text that starts with a reserved character",
  BLOCK_AS_IMPLICIT_KEY: "a nested mapping on one line (is a text with `: ` unquoted?)",
  BLOCK_IN_FLOW: "a block collection inside brackets",
  COMMENT_SPACE: "a comment without a space before its #",
  IMPOSSIBLE: "what no YAML can hold",
  KEY_OVER_1024_CHARS: "a key of more than 1024 characters",
  MISSING_CHAR: "a missing character (a colon, a comma, a quote, a bracket or a space)",
  MULTILINE_IMPLICIT_KEY: "a key over several lines (is a colon missing?)",
  MULTIPLE_ANCHORS: "two anchors on one value",
  MULTIPLE_DOCS: "more than one document",
  MULTIPLE_TAGS: "two tags on one value",
  TAB_AS_INDENT: "a tab in the indentation",
  TAG_RESOLVE_FAILED: "an unknown tag, or a value that does not fit it",
  UNEXPECTED_TOKEN: "an unexpected character",
};

/** Anchors and what they stand for are found in one walk: asking the library alias by alias takes a walk for each. */
function resolver(document: Document.Parsed, source: Source): Tree["resolve"] {
  const targets = new Map<Alias, Node>();
  const anchors = new Map<string, Node>();
  visit(document, {
    Node: (_, node) => {
      if (isAlias(node)) {
        const target = anchors.get(node.source);
        if (target !== undefined) targets.set(node, target);
      } else if (node.anchor !== undefined) anchors.set(node.anchor, node);
    },
  });
  let left = ALIASED_NODES_MAX;
  let reported = false;
  return (node) => {
    if (!isAlias(node)) return node;
    const offset = node.range?.[0] ?? 0;
    const target = targets.get(node);
    if (target === undefined) {
      source.reportAt(offset, "", "an alias of an earlier anchor", quote(`*${node.source}`));
      return undefined;
    }
    left -= countNodes(target, left);
    if (left > 0) return target;
    if (!reported) source.reportAt(offset, "", `aliases for at most ${ALIASED_NODES_MAX} values`, "more");
    reported = true;
    return undefined;
  };
}

/** Nodes below one, counted up to a little over `most`. */
function countNodes(target: Node, most: number): number {
  let count = 0;
  visit(target, () => {
    count++;
    return count > most ? visit.BREAK : undefined;
  });
  return count;
}
