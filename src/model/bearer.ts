/** Tokens that travel in a header. */

/**
 * Whether a text can stand after `Bearer` (RFC 9110, section 5.5): one word of visible ASCII. Libraries that are given
 * anything else refuse it with a message that quotes it, so it is asked before.
 */
export function isBearer(text: string): boolean {
  return /^[\x21-\x7e]+$/.test(text);
}

/** What a file must hold, for messages. */
export const BEARER_EXPECTED = "one token of visible ASCII";
