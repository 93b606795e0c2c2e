/** Reads the words of a condition: finds what cannot be CEL before the parser is asked, and says so in plain words. */

import { quote } from "./problem.ts";

/** What is wrong with a condition. */
export interface ConditionFault {
  /** Character of the condition's text at which it is, from 0. */
  readonly offset: number;
  readonly expected: string;
  readonly got: string;
  readonly suggestion?: string | undefined;
}

/** Most brackets open at once: the parser is recursive. */
const DEPTH_MAX = 32;

interface Word {
  readonly kind: "name" | "text" | "number" | "mark";
  readonly text: string;
  readonly start: number;
}

const SPACE = /(?:\s|\/\/[^\n]*)+/y;
const NAME = /[A-Za-z_]\w*/y;
const TEXT =
  /[bBrR]{0,2}(?:"""(?:[^\\]|\\[\s\S])*?"""|'''(?:[^\\]|\\[\s\S])*?'''|"(?:[^"\\\n]|\\[^\n])*"|'(?:[^'\\\n]|\\[^\n])*')/y;
const NUMBER = /(?:0x[0-9a-fA-F]+|\d+\.\d+(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|\d+(?:[eE][+-]?\d+)?)[uU]?/y;
const MARK = /==|!=|<=|>=|&&|\|\||[<>+\-*/%!?:.,()[\]{}]/y;

/** Words that people write for what CEL spells otherwise. */
const SPELLING: Readonly<Record<string, string>> = { "=": "==", "&": "&&", "|": "||", and: "&&", or: "||", not: "!" };

/** Whether the text asks for one of the variables. */
export function asksFor(text: string, names: readonly string[]): boolean {
  const words = readWords(text);
  return words.some(({ kind, text: word }, index) => {
    return kind === "name" && names.includes(word) && words[index - 1]?.text !== ".";
  });
}

/** What keeps the text from being an expression; `undefined` where nothing is seen that does. */
export function checkWords(text: string): ConditionFault | undefined {
  const words = readWords(text);
  const open: Word[] = [];
  let wantsValue = true;
  let before: Word | undefined;
  for (const word of words) {
    const fault = wantsValue ? misplacedValue(word, before, open.at(-1)) : misplacedOperator(word, before);
    if (fault !== undefined) return { offset: word.start, ...fault };
    if ("([{".includes(word.text) && word.kind === "mark") {
      open.push(word);
      if (open.length > DEPTH_MAX) {
        return { offset: word.start, expected: `at most ${DEPTH_MAX} brackets open at once`, got: "more" };
      }
    } else if (")]}".includes(word.text) && word.kind === "mark") {
      const opening = open.pop();
      if (opening === undefined)
        return { offset: word.start, expected: "no more brackets closed than opened", got: quote(word.text) };
      const closing = CLOSING[opening.text] ?? "";
      if (closing !== word.text) return { offset: word.start, expected: quote(closing), got: quote(word.text) };
    }
    wantsValue = wantsValueAfter(word, wantsValue);
    before = word;
  }
  const unclosed = open.at(-1);
  if (unclosed !== undefined) {
    return {
      offset: unclosed.start,
      expected: `a ${quote(CLOSING[unclosed.text] ?? "")} that closes it`,
      got: "the end",
    };
  }
  return wantsValue ? { offset: text.length, expected: "a value", got: "the end" } : undefined;
}

const CLOSING: Readonly<Record<string, string>> = { "(": ")", "[": "]", "{": "}" };

function misplacedValue(
  word: Word,
  before: Word | undefined,
  open: Word | undefined,
): Omit<ConditionFault, "offset"> | undefined {
  if (before?.text === "." && before.kind === "mark") {
    return word.kind === "name" ? undefined : { expected: "a name", got: quote(word.text) };
  }
  if (word.kind === "name" && word.text === "not") return { expected: "a value", got: '"not"', suggestion: "!" };
  if (word.kind !== "mark") return word.text === "in" ? { expected: "a value", got: '"in"' } : undefined;
  if ("!-([{.".includes(word.text)) return undefined;
  const empty = open !== undefined && before === open && CLOSING[open.text] === word.text;
  // A comma may stand before a bracket that closes.
  const trailing = before?.text === "," && open !== undefined && CLOSING[open.text] === word.text;
  if (empty || trailing) return undefined;
  if (word.text === '"' || word.text === "'") return { expected: "a text with a closing quote", got: "none" };
  return { expected: "a value", got: quote(word.text), suggestion: SPELLING[word.text] };
}

function misplacedOperator(word: Word, before: Word | undefined): Omit<ConditionFault, "offset"> | undefined {
  if (word.kind === "name" && word.text === "in") return undefined;
  const isOperator = word.kind === "mark" && MARKS.has(word.text) && word.text !== "!";
  if (isOperator && (word.text !== "(" || before?.kind === "name")) return undefined;
  return { expected: "an operator", got: quote(word.text), suggestion: SPELLING[word.text] };
}

const MARKS = new Set("== != <= >= && || < > + - * / % ! ? : . , ( ) [ ] { }".split(" "));

function wantsValueAfter(word: Word, wanted: boolean): boolean {
  if (word.kind === "name") return !wanted && word.text === "in";
  if (word.kind !== "mark") return false;
  return !")]}".includes(word.text);
}

/** Words in order; what is none is taken as a mark of its own, for the checks to refuse. */
function readWords(text: string): readonly Word[] {
  const words: Word[] = [];
  let at = 0;
  while (at < text.length) {
    const space = wordAt(SPACE, text, at);
    if (space !== undefined) {
      at += space.length;
      continue;
    }
    const found = take("text", TEXT, text, at) ??
      take("number", NUMBER, text, at) ??
      take("name", NAME, text, at) ??
      take("mark", MARK, text, at) ?? {
        kind: "mark" as const,
        text: String.fromCodePoint(text.codePointAt(at)!),
        start: at,
      };
    words.push(found);
    at += found.text.length;
  }
  return words;
}

function take(kind: Word["kind"], pattern: RegExp, text: string, start: number): Word | undefined {
  const found = wordAt(pattern, text, start);
  return found === undefined ? undefined : { kind, text: found, start };
}

function wordAt(pattern: RegExp, text: string, at: number): string | undefined {
  pattern.lastIndex = at;
  return pattern.exec(text)?.[0];
}
