/** Bounds of the patterns that conditions match texts with. */

/** Most characters and states of one pattern: the time of a match grows with its states. */
export const PATTERN_CHARS_MAX = 256;
export const PATTERN_STATES_MAX = 500;

/** Roughly how many states a pattern compiles to: its length, with repeated parts counted as often as they repeat. */
export function statesOf(pattern: string): number {
  let at = 0;
  const sequence = (): number => {
    let total = 0;
    let last = 0;
    while (at < pattern.length && pattern[at] !== ")") {
      const repeat = /^\{(\d+)(?:,(\d*))?\}/.exec(pattern.slice(at, at + 16));
      if (repeat !== null) {
        const times = Math.max(Number(repeat[1]), Number(repeat[2] || repeat[1]), 1);
        total += last * (times - 1);
        last *= times;
        at += repeat[0].length;
        continue;
      }
      last = atom();
      total += last;
    }
    return total;
  };
  const atom = (): number => {
    const character = pattern[at++];
    if (character === "(") {
      const inner = sequence();
      at++;
      return inner + 2;
    }
    if (character === "\\") {
      // A class of characters may stand for hundreds of ranges.
      const wide = pattern[at] === "p" || pattern[at] === "P";
      at++;
      return wide ? 16 : 1;
    }
    if (character === "[") {
      const start = at;
      while (at < pattern.length && (pattern[at] !== "]" || at === start)) at += pattern[at] === "\\" ? 2 : 1;
      at++;
      return 1 + (at - start) / 4;
    }
    return 1;
  };
  let states = 0;
  while (at < pattern.length) {
    states += sequence();
    at++;
  }
  return Math.ceil(states);
}
