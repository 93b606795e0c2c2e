/** Shows the line of a file that a problem is about, with a mark under the place; never a line that may hold a secret. */

import type { Problem } from "./problem.ts";

/** Most characters of a line that are shown, around the place. */
const WIDTH = 100;

/** Paths of the schema that hold keys, hashes or key sets. */
const SECRET_PATHS = /(?:^|\.)(?:apiKeys|jwks|anchors)(?:\.|\[|$)/;

/** Names under which keys and hashes stand, wherever they were put. */
const SECRET_NAMES =
  /api-?_?keys?\b|sha-?_?256|jwks|inline|anchors|-----BEGIN|(?:secret|password|token|bearer|credential)s?["']?\s*:/i;

/** Runs of characters as keys, hashes and tokens have them. */
const SECRET_RUNS = /[A-Za-z0-9+_=-]{32,}|[0-9a-fA-F]{24,}/;

/** Lines before a syntax error, or around a place, in which a name of a secret keeps the line from being shown. */
const LINES_BEFORE = 12;

/**
 * Two lines: the source, cut around the place, and a caret under it.
 * @param lines of the file, without line ends
 * @returns `undefined` where there is no such line, or it may hold a secret
 */
export function excerptOf(problem: Problem, lines: readonly string[]): readonly [string, string] | undefined {
  if (problem.line === undefined) return undefined;
  const line = lines[problem.line - 1];
  if (line === undefined || line.trim() === "" || mayHoldSecret(problem, lines)) return undefined;
  const column = Math.min(Math.max(0, (problem.column ?? 1) - 1), line.length);
  const start = line.length <= WIDTH ? 0 : Math.max(0, Math.min(column - WIDTH / 2, line.length - WIDTH));
  const end = Math.min(line.length, start + WIDTH);
  const before = start > 0 ? "…" : "";
  const shown = `${before}${printable(line.slice(start, end))}${end < line.length ? "…" : ""}`;
  const number = String(problem.line);
  const gutter = " ".repeat(number.length);
  return [`  ${number} | ${shown}`, `  ${gutter} | ${" ".repeat(before.length + column - start)}^`];
}

/** One column for each character, whatever it is: nothing in a file may steer the terminal. */
function printable(text: string): string {
  return text.replace(/\t/g, " ").replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, "?");
}

function mayHoldSecret({ path, line }: Problem, lines: readonly string[]): boolean {
  if (SECRET_PATHS.test(path)) return true;
  const at = (line ?? 1) - 1;
  const text = lines[at] ?? "";
  if (SECRET_NAMES.test(text) || SECRET_RUNS.test(text)) return true;
  // A line inside a value stands deeper than the name that it belongs to; brackets may put it anywhere below.
  if (path === "") return lines.slice(Math.max(0, at - LINES_BEFORE), at).some((earlier) => SECRET_NAMES.test(earlier));
  let indent = indentOf(text);
  for (let above = at - 1; above >= 0 && indent > 0; above--) {
    const earlier = lines[above] ?? "";
    if (earlier.trim() === "" || indentOf(earlier) >= indent) continue;
    if (SECRET_NAMES.test(earlier)) return true;
    indent = indentOf(earlier);
  }
  return false;
}

function indentOf(line: string): number {
  return line.length - line.trimStart().length;
}
