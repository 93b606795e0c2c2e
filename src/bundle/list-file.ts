/** Reads files of listed values: `VALUE [BITS]` per line, parted by white space or a comma; `#` or `;` starts a comment. */

import { fileProblem, type Problem, quote } from "./problem.ts";

/** Most faulty lines that are listed of one file. */
const PROBLEMS_SHOWN_MAX = 20;

const BITS_MAX = 64;

/**
 * Reads every line.
 *
 * @param expected what a value is, for messages
 * @param take takes a value with the bits of its line, `undefined` where the line has none; false refuses the value
 * @returns what is wrong: the first lines of it, and how many there are besides
 */
export function readListFile(
  text: string,
  file: string,
  expected: string,
  take: (value: string, bits: number | undefined) => boolean,
): readonly Problem[] {
  const problems: Problem[] = [];
  let faults = 0;
  const fault = (line: number, wanted: string, got: string): void => {
    faults++;
    if (faults > PROBLEMS_SHOWN_MAX) return;
    problems.push({ file, line, column: undefined, path: "", expected: wanted, got, suggestion: undefined });
  };
  for (const [index, line] of text
    .replace(/^\u{feff}/u, "")
    .split("\n")
    .entries()) {
    const content = withoutComment(line);
    if (content === "") continue;
    const [value = "", bitsText, ...rest] = content.split(/[\s,]+/);
    const bits = bitsText === undefined ? undefined : readBits(bitsText);
    if (rest.length > 0 || Number.isNaN(bits)) {
      fault(index + 1, `${expected}, then at most bits from 0 to ${BITS_MAX}`, quote(content));
    } else if (!take(value, bits)) fault(index + 1, expected, quote(value));
  }
  if (faults > PROBLEMS_SHOWN_MAX) {
    problems.push(fileProblem(file, "no other faulty lines", `${faults - PROBLEMS_SHOWN_MAX} more`));
  }
  return problems;
}

function withoutComment(line: string): string {
  const end = line.search(/[#;]/);
  return (end === -1 ? line : line.slice(0, end)).trim();
}

function readBits(text: string): number {
  const bits = /^\d{1,3}(?:\.\d{1,6})?$/.test(text) ? Number(text) : Number.NaN;
  return bits <= BITS_MAX ? bits : Number.NaN;
}
