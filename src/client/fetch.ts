/** `fetch` that answers a callee's challenges by itself, a bounded number of times. */

import { type AddedHeaders, type Call, Caller, type CallerOptions } from "./caller.ts";

export interface FetchOptions extends CallerOptions {
  /** Origins that get tokens and proofs, for example `https://orders.example`; default: every one that is called. */
  readonly origins?: readonly string[];
  /** Default: the global one. undici's own works as well. */
  readonly fetch?: typeof fetch;
}

const UNAUTHORIZED = 401;

/**
 * A `fetch` for callers of guarded services. A 401 with a challenge is answered once, and the request is made again, when
 * its body can be sent again: text, bytes, parameters, blobs and forms can; streams, and requests that already hold a
 * body, cannot, and then the 401 comes back. A challenge met beforehand (its nonce is remembered) costs no second trip.
 * @throws what `fetch` and `getToken` throw; {TypeError} when the key can make no proofs
 */
export function sallyportFetch(options: FetchOptions): typeof fetch {
  const caller = new Caller(options);
  const send = options.fetch ?? fetch;
  const origins = options.origins?.map((origin) => new URL(origin).origin);
  return async (input, init) => {
    const asked = input instanceof Request ? input : undefined;
    const url = new URL(asked?.url ?? String(input));
    if (origins !== undefined && !origins.includes(url.origin)) return send(input, init);
    const headers = new Headers(init?.headers ?? asked?.headers);
    const body = bodyOf(init?.body, asked);
    const call: Call = {
      method: (init?.method ?? asked?.method ?? "GET").toUpperCase(),
      url,
      headers: new Map([...headers].map(([name, value]) => [name, [value]])),
      body: body.bytes,
    };
    const exchange = caller.begin(call);
    let added = await exchange.first();
    for (;;) {
      const response = await send(input, { ...init, headers: withAdded(headers, added) });
      const read = (name: string): string | undefined => response.headers.get(name) ?? undefined;
      const origin = response.url === "" ? url.origin : new URL(response.url).origin;
      if (origins === undefined || origins.includes(origin)) caller.learn(origin, read);
      // A challenge from where a redirect led is not one to this request.
      if (response.status !== UNAUTHORIZED || !body.replayable || origin !== url.origin) return response;
      const answer = await exchange.answer(read);
      if (answer === undefined) return response;
      await response.body?.cancel();
      added = answer;
    }
  };
}

function withAdded(headers: Headers, added: AddedHeaders): Headers {
  const all = new Headers(headers);
  for (const [name, value] of Object.entries(added)) all.set(name, value);
  return all;
}

interface Body {
  readonly replayable: boolean;
  readonly bytes: () => Promise<Uint8Array | undefined>;
}

function bodyOf(body: RequestInit["body"], request: Request | undefined): Body {
  const unknown = async (): Promise<undefined> => undefined;
  if (body === undefined || body === null) {
    const empty = (request?.body ?? null) === null;
    return { replayable: empty, bytes: empty ? async () => new Uint8Array() : unknown };
  }
  if (typeof body === "string" || body instanceof URLSearchParams) {
    return { replayable: true, bytes: async () => new TextEncoder().encode(String(body)) };
  }
  if (body instanceof ArrayBuffer) return { replayable: true, bytes: async () => new Uint8Array(body) };
  if (ArrayBuffer.isView(body)) {
    return { replayable: true, bytes: async () => new Uint8Array(body.buffer, body.byteOffset, body.byteLength) };
  }
  if (body instanceof Blob) return { replayable: true, bytes: async () => new Uint8Array(await body.arrayBuffer()) };
  // A form's boundary is chosen when it is sent: its bytes, and so their digest, cannot be known before.
  if (body instanceof FormData) return { replayable: true, bytes: unknown };
  return { replayable: false, bytes: unknown };
}
