/** The HTTP server of the local API and the live page, over TCP and over the private socket. */

import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from "node:http";
import { isForeign } from "./access.ts";
import type { ApiOptions } from "./api.ts";
import { closeHttp, listenOn, pathOf } from "./listen.ts";
import { PAGE_CSS, PAGE_HTML, PAGE_JS } from "./page.ts";

const PAGES: ReadonlyMap<string, readonly [type: string, body: string]> = new Map([
  ["/", ["text/html; charset=utf-8", PAGE_HTML]],
  ["/page.js", ["text/javascript; charset=utf-8", PAGE_JS]],
  ["/page.css", ["text/css; charset=utf-8", PAGE_CSS]],
]);

export interface ConsoleServer {
  /** `HOST:PORT` in use, or the socket's path. */
  readonly address: string;
  close(): Promise<void>;
}

/**
 * Most sidecars are never asked: what answers is loaded with the first request.
 * @param address `HOST:PORT`, or `unix:PATH` for the private socket (mode 0600)
 * @throws {OperatingError} ERR_LISTEN
 */
export async function startConsole(options: ApiOptions, address: string): Promise<ConsoleServer> {
  let loaded: Promise<RequestListener> | undefined;
  const server = createServer(
    guarded((request, response) => {
      loaded ??= load(options, pathOf(address) !== undefined);
      loaded.then(
        (api) => api(request, response),
        (error: unknown) => {
          // Asked again, it is tried again; this request is told, and the sidecar decides on.
          loaded = undefined;
          const why = error instanceof Error ? error.message : String(error);
          response.writeHead(500, { "content-type": "text/plain" }).end(`the local API cannot be loaded: ${why}\n`);
        },
      );
    }),
  );
  server.requestTimeout = 30_000;
  const bound = await listenOn(server, address, 0o600);
  return { address: bound, close: () => closeHttp(server) };
}

async function load(options: ApiOptions, isPrivate: boolean): Promise<RequestListener> {
  const [{ createContextValues }, { connectNodeAdapter }, { localApi, overPrivateSocket }] = await Promise.all([
    import("@connectrpc/connect"),
    import("@connectrpc/connect-node"),
    import("./api.ts"),
  ]);
  return connectNodeAdapter({
    routes: localApi(options),
    contextValues: () => createContextValues().set(overPrivateSocket, isPrivate),
    // The adapter serves HTTP/1.1 and HTTP/2 alike; this server is made for HTTP/1.1 only.
    fallback: (request, response) => servePage(request as IncomingMessage, response as ServerResponse),
  });
}

function guarded(next: RequestListener): RequestListener {
  return (request, response) => {
    if (isForeign(request.headers.host, request.headers.origin)) {
      response.writeHead(403, { "content-type": "text/plain" }).end("this API is for this machine only\n");
      return;
    }
    next(request, response);
  };
}

function servePage(request: IncomingMessage, response: ServerResponse): void {
  const page = PAGES.get(request.url?.split("?", 1)[0] ?? "");
  if (page === undefined || (request.method !== "GET" && request.method !== "HEAD")) {
    response.writeHead(404, { "content-type": "text/plain" }).end("not found\n");
    return;
  }
  response
    .writeHead(200, {
      "content-type": page[0],
      "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'",
      "x-content-type-options": "nosniff",
      "referrer-policy": "no-referrer",
      "cache-control": "no-store",
    })
    .end(request.method === "HEAD" ? undefined : page[1]);
}
