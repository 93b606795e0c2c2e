/** `/healthz`, `/readyz` and `/metrics` over HTTP, for kubelets and Prometheus. */

import { createServer, type Server } from "node:http";
import type { Registry } from "prom-client";
import { closeHttp, listenOn } from "../console/listen.ts";

export interface Readiness {
  readonly ready: boolean;
  /** Shown as it is; states every part, so that a probe's failure explains itself. */
  readonly detail: Readonly<Record<string, string>>;
}

export class HealthServer {
  readonly address: string;
  private readonly server: Server;
  private bound = "";

  constructor(address: string, metrics: { readonly registry: Registry }, readiness: () => Readiness) {
    this.address = address;
    this.server = createServer((request, response) => {
      const path = request.url?.split("?")[0];
      if (request.method !== "GET" && request.method !== "HEAD") {
        response.writeHead(405, { allow: "GET, HEAD" }).end();
      } else if (path === "/healthz") {
        response.writeHead(200, { "content-type": "text/plain" }).end("ok\n");
      } else if (path === "/readyz") {
        const { ready, detail } = readiness();
        response
          .writeHead(ready ? 200 : 503, { "content-type": "application/json" })
          .end(`${JSON.stringify({ ready, ...detail })}\n`);
      } else if (path === "/metrics") {
        metrics.registry.metrics().then(
          (text) => response.writeHead(200, { "content-type": metrics.registry.contentType }).end(text),
          () => response.writeHead(500).end(), // one failing collector must not end the process
        );
      } else {
        response.writeHead(404, { "content-type": "text/plain" }).end("not found\n");
      }
    });
  }

  /** The address in use, with the real port where 0 was asked for. */
  get boundAddress(): string {
    return this.bound;
  }

  /** @throws {OperatingError} ERR_LISTEN */
  async listen(): Promise<void> {
    // Kubelets and Prometheus run as other users.
    this.bound = await listenOn(this.server, this.address, 0o666);
  }

  close(): Promise<void> {
    return closeHttp(this.server);
  }
}
