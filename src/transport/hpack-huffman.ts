/** The Huffman code of HPACK (RFC 7541 appendix B), decoded four bits at a step. */

/** A header block that cannot be decoded: its connection's table is lost (RFC 7541 section 2.3.3 and others). */
export class HpackError extends Error {
  override readonly name = "HpackError";
}

/** The code is canonical, so that lengths define it: bits of symbols 0..255 and, last, of the end of string. */
// biome-ignore format: rows of sixteen, as in the RFC's order
const CODE_BITS: readonly number[] = [
  13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
  28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
  6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
  5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
  13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
  7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
  15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
  6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
  20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
  24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
  22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
  21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
  26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
  19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
  20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
  26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
  30,
];
const END_OF_STRING = 256;

/** Codes by symbol, as the RFC lists them. */
export const HUFFMAN_CODES: readonly { readonly code: number; readonly bits: number }[] = canonicalCodes();

function canonicalCodes(): { code: number; bits: number }[] {
  const codes = CODE_BITS.map((bits) => ({ code: 0, bits }));
  const order = CODE_BITS.map((_, symbol) => symbol).sort(
    (a, b) => (CODE_BITS[a] as number) - (CODE_BITS[b] as number) || a - b,
  );
  let code = 0;
  let bits = CODE_BITS[order[0] as number] as number;
  for (const symbol of order) {
    const own = CODE_BITS[symbol] as number;
    code <<= own - bits;
    bits = own;
    codes[symbol] = { code, bits };
    code += 1;
  }
  return codes;
}

/** One step per state and nibble: the next state (bits 0-8), a symbol (bits 9-16) if bit 17, an error if bit 18. */
const EMITS = 1 << 17;
const FAILS = 1 << 18;
const { steps: STEPS, accepting: ACCEPTING } = automaton();

/** States are the inner nodes of the code's tree: 256 of them, the root is 0. */
function automaton(): { steps: Int32Array; accepting: Uint8Array } {
  // A child is a node (>= 0) or a symbol (stored as -1 - symbol).
  const children: [number | undefined, number | undefined][] = [[undefined, undefined]];
  HUFFMAN_CODES.forEach(({ code, bits }, symbol) => {
    let node = 0;
    for (let bit = bits - 1; bit > 0; bit--) {
      const side = (code >>> bit) & 1;
      const pair = children[node] as [number | undefined, number | undefined];
      let next = pair[side];
      if (next === undefined) {
        next = children.push([undefined, undefined]) - 1;
        pair[side] = next;
      }
      node = next;
    }
    (children[node] as [number | undefined, number | undefined])[code & 1] = -1 - symbol;
  });
  const steps = new Int32Array(children.length * 16);
  for (let state = 0; state < children.length; state++) {
    for (let nibble = 0; nibble < 16; nibble++) {
      let node = state;
      let step = 0;
      for (let bit = 3; bit >= 0; bit--) {
        const child = (children[node] as [number, number])[(nibble >>> bit) & 1] as number;
        if (child >= 0) {
          node = child;
        } else if (-1 - child === END_OF_STRING) {
          step |= FAILS;
          break;
        } else {
          // The shortest code has five bits, so that a nibble ends at most one.
          step |= EMITS | ((-1 - child) << 9);
          node = 0;
        }
      }
      steps[state * 16 + nibble] = step | node;
    }
  }
  // Padding is at most seven bits, all of them ones: the start of the end-of-string code.
  const accepting = new Uint8Array(children.length);
  let node = 0;
  for (let bits = 0; bits <= 7; bits++) {
    accepting[node] = 1;
    node = (children[node] as [number, number])[1] as number;
  }
  return { steps, accepting };
}

/** Room for the longest text of the longest block: five bits a letter. Grows when a test or a setting asks for more. */
let scratch = Buffer.allocUnsafe(4096);

/**
 * Decodes `bytes[start, end)`.
 * @returns the octets as a latin1 string
 * @throws {HpackError} on an end-of-string symbol, padding longer than seven bits, or padding that is not all ones
 */
export function decodeHuffman(bytes: Uint8Array, start: number, end: number): string {
  const room = Math.ceil(((end - start) * 8) / 5);
  if (scratch.length < room) scratch = Buffer.allocUnsafe(room * 2);
  let state = 0;
  let length = 0;
  for (let at = start; at < end; at++) {
    const byte = bytes[at] as number;
    for (let shift = 4; shift >= 0; shift -= 4) {
      const step = STEPS[state * 16 + ((byte >>> shift) & 15)] as number;
      if ((step & FAILS) !== 0) throw new HpackError("end of string inside a Huffman string");
      if ((step & EMITS) !== 0) scratch[length++] = (step >>> 9) & 255;
      state = step & 511;
    }
  }
  if (ACCEPTING[state] !== 1) throw new HpackError("wrong padding of a Huffman string");
  return scratch.toString("latin1", 0, length);
}
