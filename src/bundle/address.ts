/** Reads the text of IPv4 and IPv6 addresses and ranges into words, without allocating for an address. */

const DOT = 46;
const COLON = 58;
const ZERO = 48;

/** A range of addresses. `words[3]` holds an IPv4 address; an IPv6 address fills all four, highest first. */
export interface AddressRange {
  readonly family: 4 | 6;
  readonly words: readonly [number, number, number, number];
  /** 0..32 or 0..128. */
  readonly prefix: number;
}

/**
 * Reads an address into `words`.
 *
 * @param words four words; an IPv4 address fills the last, an IPv6 address all four
 * @returns 4 or 6, or 0 when the text is no address. An IPv4-mapped IPv6 address counts as IPv4; zones are refused.
 */
export function readAddress(text: string, words: Uint32Array): 0 | 4 | 6 {
  const { length } = text;
  if (length < 2 || length > 45) return 0;
  for (let index = 0; index < 5 && index < length; index++) {
    const code = text.charCodeAt(index);
    if (code === COLON) return readIpv6(text, words);
    if (code === DOT) break;
  }
  const value = readIpv4(text, 0);
  if (value < 0) return 0;
  words[3] = value;
  return 4;
}

/**
 * Reads `192.0.2.7`, `192.0.2.0/24` or their IPv6 forms; bits beyond the prefix are cleared.
 * @returns `undefined` when the text is neither.
 */
export function readRange(text: string): AddressRange | undefined {
  const slash = text.indexOf("/");
  const words = new Uint32Array(4);
  const family = readAddress(slash === -1 ? text : text.slice(0, slash), words);
  if (family === 0) return undefined;
  const mapped = family === 4 && text.includes(":");
  const prefixMax = family === 4 && !mapped ? 32 : 128;
  const prefixText = slash === -1 ? String(prefixMax) : text.slice(slash + 1);
  if (!/^(?:0|[1-9]\d{0,2})$/.test(prefixText)) return undefined;
  const prefix = Number(prefixText);
  if (prefix > prefixMax) return undefined;
  const [first, second, third, last] = [words[0]!, words[1]!, words[2]!, words[3]!];
  if (mapped && prefix >= 96) return masked(4, [0, 0, 0, last], prefix - 96);
  if (mapped) return masked(6, [0, 0, 0xffff, last], prefix);
  return family === 4 ? masked(4, [0, 0, 0, last], prefix) : masked(6, [first, second, third, last], prefix);
}

/**
 * Reads what {@link readRange} reads, or a span `FIRST-LAST` of addresses of one family, as the fewest ranges that make
 * it up.
 * @returns `undefined` when the text is neither
 */
export function readRanges(text: string): readonly AddressRange[] | undefined {
  const dash = text.indexOf("-");
  if (dash === -1) {
    const range = readRange(text);
    return range === undefined ? undefined : [range];
  }
  const first = readRange(text.slice(0, dash).trim());
  const last = readRange(text.slice(dash + 1).trim());
  if (first === undefined || last === undefined || first.family !== last.family || text.includes("/")) return undefined;
  return span(first, last);
}

function span(first: AddressRange, last: AddressRange): readonly AddressRange[] | undefined {
  const { family } = first;
  const bits = family === 4 ? 32 : 128;
  const numberOf = ({ words }: AddressRange): bigint =>
    words.reduce((value, word) => (value << 32n) | BigInt(word), 0n);
  const end = numberOf(last);
  const ranges: AddressRange[] = [];
  for (let start = numberOf(first); start <= end; ) {
    // The widest range that begins here and does not go beyond the end.
    let free = 0;
    while (free < bits && (start & (1n << BigInt(free))) === 0n && start + (1n << BigInt(free + 1)) - 1n <= end) free++;
    const word = (index: number): number => Number((start >> BigInt(96 - index * 32)) & 0xffffffffn);
    ranges.push({ family, words: [word(0), word(1), word(2), word(3)], prefix: bits - free });
    start += 1n << BigInt(free);
  }
  return ranges.length === 0 ? undefined : ranges;
}

function masked(family: 4 | 6, words: AddressRange["words"], prefix: number): AddressRange {
  const skipped = family === 4 ? 96 : 0;
  const cut = (word: number, index: number): number => {
    const bits = Math.min(32, Math.max(0, prefix + skipped - index * 32));
    return bits === 0 ? 0 : (word & (0xffffffff << (32 - bits))) >>> 0;
  };
  return { family, words: [cut(words[0], 0), cut(words[1], 1), cut(words[2], 2), cut(words[3], 3)], prefix };
}

/** The value of the dotted quad that fills the text from `start`, or -1. Leading zeros are refused. */
function readIpv4(text: string, start: number): number {
  let value = 0;
  let octet = -1;
  let dots = 0;
  for (let index = start; index < text.length; index++) {
    const code = text.charCodeAt(index);
    if (code === DOT) {
      if (octet < 0 || dots === 3) return -1;
      value = value * 256 + octet;
      octet = -1;
      dots++;
    } else {
      const digit = code - ZERO;
      if (digit < 0 || digit > 9 || octet === 0) return -1;
      octet = octet < 0 ? digit : octet * 10 + digit;
      if (octet > 255) return -1;
    }
  }
  return dots === 3 && octet >= 0 ? value * 256 + octet : -1;
}

/** The eight groups of the address being read; used by one synchronous call at a time. */
const groups = new Uint16Array(8);

function readIpv6(text: string, words: Uint32Array): 0 | 4 | 6 {
  const { length } = text;
  let count = 0;
  let gap = -1;
  let index = 0;
  if (text.charCodeAt(0) === COLON) {
    if (text.charCodeAt(1) !== COLON) return 0;
    gap = 0;
    index = 2;
  }
  while (index < length) {
    if (count === 8) return 0;
    let value = 0;
    const start = index;
    while (index < length) {
      const digit = hexDigit(text.charCodeAt(index));
      if (digit < 0) break;
      value = value * 16 + digit;
      index++;
    }
    if (index < length && text.charCodeAt(index) === DOT) {
      const quad = count > 6 ? -1 : readIpv4(text, start);
      if (quad < 0) return 0;
      groups[count++] = quad >>> 16;
      groups[count++] = quad & 0xffff;
      break;
    }
    if (index === start || index - start > 4) return 0;
    groups[count++] = value;
    if (index === length) break;
    if (text.charCodeAt(index) !== COLON) return 0;
    index++;
    if (index < length && text.charCodeAt(index) === COLON) {
      if (gap >= 0) return 0;
      gap = count;
      index++;
    } else if (index === length) return 0;
  }
  if (gap < 0 ? count !== 8 : count > 7) return 0;
  if (gap >= 0) {
    const tail = count - gap;
    groups.copyWithin(8 - tail, gap, count);
    groups.fill(0, gap, 8 - tail);
  }
  for (let word = 0; word < 4; word++) words[word] = groups[word * 2]! * 0x10000 + groups[word * 2 + 1]!;
  return words[0] === 0 && words[1] === 0 && words[2] === 0xffff ? 4 : 6;
}

function hexDigit(code: number): number {
  if (code >= 48 && code <= 57) return code - 48;
  if (code >= 97 && code <= 102) return code - 87;
  return code >= 65 && code <= 70 ? code - 55 : -1;
}
