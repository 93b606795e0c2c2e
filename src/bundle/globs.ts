/** Globs: `*` stands for any text within a segment, `**` for any text; segments are parted by `/`. */

import type { Glob } from "../model/policy.ts";

/** Bounds of one glob. */
const LENGTH_MAX = 512;
const WILDCARDS_MAX = 16;

/** What a glob must be, for messages. */
export const GLOB_EXPECTED = `a glob of 1..${LENGTH_MAX} printable characters with at most ${WILDCARDS_MAX} wildcards`;

/** A glob that is compiled when it is first asked: ten thousand rules are loaded without ten thousand patterns. */
export function lazyGlob(text: string): Glob {
  return new LazyGlob(text);
}

class LazyGlob implements Glob {
  readonly text: string;
  private pattern: RegExp | undefined;

  constructor(text: string) {
    this.text = text;
  }

  test(text: string): boolean {
    this.pattern ??= compileGlob(this.text);
    return this.pattern.test(text);
  }
}

/** Whether the text can be compiled. */
export function isGlob(text: string): boolean {
  if (text.length === 0 || text.length > LENGTH_MAX) return false;
  return /^[!-~\u{a1}-\u{10ffff}]+$/u.test(text) && (text.match(/\*+/g)?.length ?? 0) <= WILDCARDS_MAX;
}

/**
 * Compiles a glob into a pattern that matches whole texts, in time linear in the text.
 *
 * Each wildcard settles on its first match and is never tried again (the lookahead with a back-reference is an atomic
 * group). That loses nothing: between two `**` an earlier match leaves more text for what follows, and within a
 * segment so does an earlier match of `*`.
 *
 * @throws {RangeError} when {@link isGlob} says no: a bug in the caller.
 */
export function compileGlob(glob: string): RegExp {
  if (!isGlob(glob)) throw new RangeError(`expected ${GLOB_EXPECTED}`);
  let group = 0;
  const atomic = (inner: () => string): string => {
    const own = ++group;
    return `(?=(${inner()}))\\${own}`;
  };
  const chunks = glob.split(/\*{2,}/).map((chunk) => chunk.split("*"));
  const source = chunks.map((literals, chunkIndex) => {
    const lastChunk = chunkIndex === chunks.length - 1;
    // After `**`: whole segments, then the rest of one segment as `*` would match it.
    const body = (): string =>
      literals
        .map((literal, index) => {
          const lastLiteral = index === literals.length - 1;
          const text = literally(literal) + (lastChunk && lastLiteral ? "$" : "");
          if (index === 0 && chunkIndex === 0) return text;
          if (text === "") return "";
          return lastChunk && lastLiteral ? `[^/]*?${text}` : atomic(() => `[^/]*?${text}`);
        })
        .join("");
    if (chunkIndex === 0) return body();
    if (lastChunk && literals.length === 1 && literals[0] === "") return "[^]*$";
    return lastChunk ? `(?:[^/]*/)*?${body()}` : atomic(() => `(?:[^/]*/)*?${body()}`);
  });
  return new RegExp(`^${source.join("")}`);
}

function literally(literal: string): string {
  return literal.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
}
