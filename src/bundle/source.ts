/** Where each value of a document stands in its file, so that whatever is found wrong later can be pointed at. */

import type { LineCounter } from "yaml";
import type { Problem } from "./problem.ts";

interface Place {
  readonly offset: number;
  /** What stands there, for messages. */
  readonly got: string;
}

/** One line of a text: where it begins in the text, and where in the file. */
interface Piece {
  readonly from: number;
  readonly at: number;
}

export class Source {
  readonly file: string;
  readonly problems: Problem[] = [];
  private readonly lines: LineCounter;
  private readonly places = new Map<string, Place>();
  private readonly names = new Map<string, number>();
  /** Paths of which something was reported, and all that enclose them. */
  private readonly faulty = new Set<string>();

  private readonly refused = new Set<string>();
  private readonly text: string;
  /** Of texts that stand in the file without escapes or folded lines: where each of their lines is. */
  private readonly texts = new Map<string, readonly Piece[]>();

  constructor(file: string, lines: LineCounter, text: string) {
    this.file = file;
    this.lines = lines;
    this.text = text;
  }

  /** Notes that the file holds a text between two offsets, to point inside it later. */
  noteText(path: string, value: string, start: number, end: number): void {
    const pieces: Piece[] = [];
    let from = 0;
    let at = start;
    for (const line of value.trimEnd().split("\n")) {
      const found = this.text.slice(at, end).indexOf(line);
      if (found < 0) return;
      pieces.push({ from, at: at + found });
      from += line.length + 1;
      at += found + line.length;
    }
    this.texts.set(path, pieces);
  }

  /** Reports a problem with a character of the text at a path: at its own place where the file holds the text as it is. */
  reportWithin(path: string, character: number, expected: string, got: string, suggestion?: string): void {
    const piece = this.texts.get(path)?.findLast(({ from }) => from <= character);
    if (piece !== undefined) this.reportAt(piece.at + character - piece.from, path, expected, got, suggestion);
    else this.report(path, `${expected} at character ${character + 1} of the text`, got, suggestion);
  }

  /** Notes where a value stands. */
  note(path: string, offset: number, got: string): void {
    this.places.set(path, { offset, got });
  }

  /** Whether the document has a value there. */
  has(path: string): boolean {
    return this.places.has(path);
  }

  /** Notes where the name of a member stands. */
  noteName(path: string, offset: number): void {
    this.names.set(path, offset);
  }

  /** Reports a problem with the name of the member at a path. */
  reportName(path: string, expected: string, got: string, suggestion?: string): void {
    this.reportAt(this.names.get(path) ?? this.enclosing(path), path, expected, got, suggestion);
  }

  /** Reports a problem at an offset of the text. */
  reportAt(offset: number, path: string, expected: string, got: string, suggestion?: string): void {
    this.excuse(path);
    this.problems.push(this.problemAt(offset, path, expected, got, suggestion));
  }

  /** Reports a problem with the value at a path. */
  report(path: string, expected: string, got?: string, suggestion?: string): void {
    this.excuse(path);
    this.problems.push(this.problem(path, expected, got, suggestion));
  }

  /** A problem with the value at a path: where it stands, or what encloses it when it is not there. */
  problem(path: string, expected: string, got?: string, suggestion?: string): Problem {
    const place = this.places.get(path);
    const offset = place?.offset ?? this.enclosing(path);
    return this.problemAt(offset, path, expected, got ?? place?.got ?? "nothing", suggestion);
  }

  /** Takes what is found wrong with the value at a path as reported already. */
  excuse(path: string): void {
    let at = path;
    while (!this.faulty.has(at)) {
      this.faulty.add(at);
      at = parentPath(at);
    }
  }

  /** Takes the value at a path, which was reported, as not there: nothing more is to be said of what it lacks. */
  refuse(path: string): void {
    this.excuse(path);
    this.refused.add(path);
  }

  /** Whether something was already reported of this value, of one inside it, or of the whole that it belongs to. */
  isFaulty(path: string): boolean {
    if (this.faulty.has(path)) return true;
    for (let at = path; at !== ""; at = parentPath(at)) if (this.refused.has(at)) return true;
    return this.refused.has("");
  }

  private problemAt(offset: number, path: string, expected: string, got: string, suggestion?: string): Problem {
    const { line, col } = this.lines.linePos(offset);
    return { file: this.file, line, column: col, path, expected, got, suggestion };
  }

  private enclosing(path: string): number {
    let parent = path;
    while (parent !== "") {
      parent = parentPath(parent);
      const place = this.places.get(parent);
      if (place !== undefined) return place.offset;
    }
    return 0;
  }
}

/** `a.b` for `a.b.c`, `a.b[2]` and `a.b["c.d"]`. */
function parentPath(path: string): string {
  return path.replace(/(?:\.?[^.[\]]+|\[\d+\]|\["(?:[^"\\]|\\.)*"\])$/, "");
}

/** The path of a member; names with dots or other marks are quoted. */
export function memberPath(parent: string, name: string): string {
  if (!/^[\w-]+$/.test(name)) return `${parent}[${JSON.stringify(name)}]`;
  return parent === "" ? name : `${parent}.${name}`;
}
