/** `/healthz`, `/readyz` and `/metrics` over HTTP, for kubelets and Prometheus. */

import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { OperatingError } from "../model/errors.ts";
import type { Metrics } from "../telemetry/metrics.ts";

export interface Readiness {
  readonly ready: boolean;
  /** Shown as it is; states every part, so that a probe's failure explains itself. */
  readonly detail: Readonly<Record<string, string>>;
}

export class HealthServer {
  readonly address: string;
  private readonly server: Server;

  constructor(address: string, metrics: Metrics, readiness: () => Readiness) {
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
    const bound = this.server.address() as AddressInfo | null;
    return bound === null ? this.address : this.address.replace(/:\d+$/, `:${bound.port}`);
  }

  /** @throws {OperatingError} ERR_LISTEN */
  listen(): Promise<void> {
    const colon = this.address.lastIndexOf(":");
    return new Promise((resolve, reject) => {
      this.server.once("error", (cause) =>
        reject(new OperatingError("ERR_LISTEN", `cannot listen on ${this.address}: ${cause.message}`, { cause })),
      );
      this.server.listen(
        Number(this.address.slice(colon + 1)),
        this.address.slice(0, colon).replace(/^\[|\]$/g, ""),
        resolve,
      );
    });
  }

  close(): Promise<void> {
    return new Promise((resolve) => {
      this.server.close(() => resolve());
      this.server.closeAllConnections();
    });
  }
}
