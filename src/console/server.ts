/** The HTTP server of the local API and the live page, over TCP and over the private socket. */

import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from "node:http";
import { type ConnectRouter, createContextValues } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { isForeign } from "./access.ts";
import { overPrivateSocket } from "./api.ts";
import { closeHttp, listenHttp, pathOf } from "./listen.ts";
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
 * @param address `HOST:PORT`, or `unix:PATH` for the private socket (mode 0600)
 * @throws {OperatingError} ERR_LISTEN
 */
export async function startConsole(routes: (router: ConnectRouter) => void, address: string): Promise<ConsoleServer> {
  const api = connectNodeAdapter({
    routes,
    contextValues: () => createContextValues().set(overPrivateSocket, pathOf(address) !== undefined),
    // The adapter serves HTTP/1.1 and HTTP/2 alike; this server is made for HTTP/1.1 only.
    fallback: (request, response) => servePage(request as IncomingMessage, response as ServerResponse),
  });
  const server = createServer(guarded(api));
  server.requestTimeout = 30_000;
  const bound = await listenHttp(server, address, 0o600);
  return { address: bound, close: () => closeHttp(server) };
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
