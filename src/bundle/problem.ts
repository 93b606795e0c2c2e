/** What is wrong with a policy or data file, and where, as people read it. */

/** One thing wrong. Texts never hold a secret. */
export interface Problem {
  /** The file as it was named. */
  readonly file: string;
  /** From 1; `undefined` where the file as a whole is meant. */
  readonly line: number | undefined;
  /** From 1; `undefined` where the line as a whole is meant. */
  readonly column: number | undefined;
  /** Where in the document, such as `spec.rules[2].thresholds.deny`; empty for the whole. */
  readonly path: string;
  readonly expected: string;
  readonly got: string;
  /** What was probably meant; `undefined` without a guess. */
  readonly suggestion: string | undefined;
}

/** `policy.yaml:14:9 spec.rules[2].thresholds.deny: expected 0..100, got 140`. */
export function formatProblem({ file, line, column, path, expected, got, suggestion }: Problem): string {
  const place = [file, line, column].filter((part) => part !== undefined).join(":");
  const where = path === "" ? place : `${place} ${path}`;
  const hint = suggestion === undefined ? "" : `; did you mean ${JSON.stringify(suggestion)}?`;
  return `${where}: expected ${expected}, got ${got}${hint}`;
}

/** The problem of a whole file. */
export function fileProblem(file: string, expected: string, got: string): Problem {
  return { file, line: undefined, column: undefined, path: "", expected, got, suggestion: undefined };
}

/** Most characters of a found text that a message repeats. */
const SHOWN_MAX = 60;

/** A found text, quoted and shortened. */
export function quote(text: string): string {
  return JSON.stringify(text.length > SHOWN_MAX ? `${text.slice(0, SHOWN_MAX)}…` : text);
}

/** Names compared with a misspelt one; beyond that, no guess. */
const COMPARED_MAX = 64;

/** The known name nearest to a misspelt one, if one is near. */
export function suggest(found: string, known: readonly string[]): string | undefined {
  if (found.length > COMPARED_MAX) return undefined;
  let best: string | undefined;
  let bestEdits = Math.max(1, Math.floor(found.length / 3)) + 1;
  for (const name of known) {
    const edits = editsBetween(found.toLowerCase(), name.toLowerCase());
    if (edits < bestEdits) {
      best = name;
      bestEdits = edits;
    }
  }
  return best;
}

/** Insertions, removals, replacements and swaps of neighbours from one text to the other (optimal string alignment). */
function editsBetween(left: string, right: string): number {
  let earlier: number[] = [];
  let row = Array.from({ length: right.length + 1 }, (_, index) => index);
  for (let i = 1; i <= left.length; i++) {
    const next = [i];
    for (let j = 1; j <= right.length; j++) {
      const replaced = row[j - 1]! + (left[i - 1] === right[j - 1] ? 0 : 1);
      const edits = Math.min(replaced, row[j]! + 1, next[j - 1]! + 1);
      const swapped = i > 1 && j > 1 && left[i - 1] === right[j - 2] && left[i - 2] === right[j - 1];
      next.push(swapped ? Math.min(edits, earlier[j - 2]! + 1) : edits);
    }
    earlier = row;
    row = next;
  }
  return row[right.length]!;
}
