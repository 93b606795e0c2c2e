/** Base64url (RFC 4648, section 5) read strictly: one text for one value, so that nothing can be written in two ways. */

/** @returns the bytes, or `undefined` for anything but canonical unpadded base64url */
export function decodeBase64url(text: string): Buffer | undefined {
  if (text.length % 4 === 1 || !/^[A-Za-z0-9_-]*$/.test(text)) return undefined;
  const bytes = Buffer.from(text, "base64url");
  return bytes.toString("base64url") === text ? bytes : undefined;
}
