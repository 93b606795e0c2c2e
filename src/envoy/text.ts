/** Cuts texts so that a short part does not keep a long whole in memory. */

/** A part that leaves out no more than this may share the whole's memory: copying costs more than it saves. */
const LEFT_OUT_CHARS_MAX = 256;

/**
 * The first `chars` characters. Engines keep a slice as a view of the text that it was cut from: remembered by the
 * thousand, cut texts of hostile callers would hold everything that was cut off.
 */
export function firstChars(text: string, chars: number): string {
  if (chars >= text.length) return text;
  const part = text.slice(0, chars);
  return text.length - chars <= LEFT_OUT_CHARS_MAX ? part : ownText(part);
}

/** A copy that is a view of nothing. */
export function ownText(text: string): string {
  return Buffer.from(text).toString();
}
