/** Compares the URI that a proof names with the one that was asked for (RFC 9449, section 4.3, item 9). */

/** Longer ones are refused unread: paths in the facts end at 2,048 characters. */
export const URI_CHARS_MAX = 4096;

const DEFAULT_PORT: Readonly<Record<string, string>> = { http: "80", https: "443" };

/**
 * A URI without query and fragment in one spelling: syntax-based and scheme-based normalisation of RFC 3986, sections
 * 6.2.2 and 6.2.3, for http and https.
 * @returns `undefined` for anything that is not an absolute http or https URI, or that names a user
 */
export function normaliseUri(uri: string): string | undefined {
  if (uri.length > URI_CHARS_MAX || /[^\x21-\x7e]|[\\"<>^`{|}]/.test(uri)) return undefined;
  const parts = /^(https?):\/\/([^/?#]+)([^?#]*)/i.exec(uri);
  if (parts === null) return undefined;
  const scheme = (parts[1] as string).toLowerCase();
  const authority = normaliseAuthority(scheme, parts[2] as string);
  const path = normalisePath(parts[3] as string);
  return authority === undefined || path === undefined ? undefined : `${scheme}://${authority}${path}`;
}

/** Host in lower case, port only when it is not the scheme's own (RFC 3986, section 6.2.3; RFC 9421, section 2.2.3). */
export function normaliseAuthority(scheme: string, authority: string): string | undefined {
  const parts = /^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::(\d*))?$/.exec(authority);
  if (parts === null) return undefined;
  const host = normaliseEscapes((parts[1] as string).toLowerCase());
  if (host === undefined) return undefined;
  const port = parts[2] === undefined || parts[2] === "" || parts[2] === DEFAULT_PORT[scheme] ? "" : `:${parts[2]}`;
  return `${host.toLowerCase()}${port}`;
}

function normalisePath(path: string): string | undefined {
  const unescaped = normaliseEscapes(path);
  if (unescaped === undefined) return undefined;
  const kept: string[] = [];
  const segments = unescaped.split("/").slice(1);
  for (const [index, segment] of segments.entries()) {
    const last = index === segments.length - 1;
    if (segment === "..") kept.pop();
    else if (segment !== ".") kept.push(segment);
    if (last && (segment === ".." || segment === ".")) kept.push("");
  }
  return `/${kept.join("/")}`;
}

/** Escapes in upper case, and none where the character may stand for itself; `undefined` for a broken one. */
function normaliseEscapes(text: string): string | undefined {
  if (!text.includes("%")) return text;
  if (/%(?![0-9A-Fa-f]{2})/.test(text)) return undefined;
  return text.replace(/%[0-9A-Fa-f]{2}/g, (triplet) => {
    const character = String.fromCharCode(Number.parseInt(triplet.slice(1), 16));
    return /[A-Za-z0-9._~-]/.test(character) ? character : triplet.toUpperCase();
  });
}
