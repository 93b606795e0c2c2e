/** One view of request headers, whichever of its two encodings Envoy was configured to send. */

import type { AttributeContext_HttpRequest } from "../gen/envoy/service/auth/v3/attribute_context_pb.ts";

/** Header names in lower case. Values of one name in order; Envoy's joined form is one value. */
export interface Headers {
  /** The first value, or `undefined`. */
  first(name: string): string | undefined;
  /** All values, in order. */
  all(name: string): readonly string[];
  /** How often the header was sent; never more than 1 in Envoy's joined form. */
  count(name: string): number;
  /** Names that begin with `prefix`. */
  names(prefix: string): readonly string[];
}

const text = new TextDecoder();

export function headersOf(http: AttributeContext_HttpRequest): Headers {
  return http.headerMap === undefined ? joined(http.headers) : separate(http.headerMap.headers);
}

function joined(headers: Readonly<Record<string, string>>): Headers {
  return {
    first: (name) => (Object.hasOwn(headers, name) ? headers[name] : undefined),
    all: (name) => (Object.hasOwn(headers, name) ? [headers[name] as string] : []),
    count: (name) => (Object.hasOwn(headers, name) ? 1 : 0),
    names: (prefix) => Object.keys(headers).filter((name) => name.startsWith(prefix)),
  };
}

function separate(
  entries: readonly { readonly key: string; readonly value: string; readonly rawValue: Uint8Array }[],
): Headers {
  const values = new Map<string, string[]>();
  for (const { key, value, rawValue } of entries) {
    const name = key.toLowerCase();
    const found = values.get(name);
    const content = rawValue.length > 0 ? text.decode(rawValue) : value;
    if (found === undefined) values.set(name, [content]);
    else found.push(content);
  }
  return {
    first: (name) => values.get(name)?.[0],
    all: (name) => values.get(name) ?? [],
    count: (name) => values.get(name)?.length ?? 0,
    names: (prefix) => [...values.keys()].filter((name) => name.startsWith(prefix)),
  };
}
