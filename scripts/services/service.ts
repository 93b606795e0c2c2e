/** What every sample service offers to whoever started it. */

import type { AddressInfo, Server } from "node:net";

export interface Service {
  readonly port: number;
  /** Cuts what is still open. Resolves once the port is free. */
  close(): Promise<void>;
}

/** One request as the service received it, after Envoy. */
export interface Received {
  readonly method: string;
  /** With query. */
  readonly path: string;
  /** Lower-case names; repeated headers joined as Node does. */
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>;
}

const RECEIVED_MAX = 1_000;

/** The latest requests; the oldest is forgotten beyond 1000. */
export class Receipts {
  readonly entries: Received[] = [];

  add(received: Received): void {
    this.entries.push(received);
    if (this.entries.length > RECEIVED_MAX) this.entries.shift();
  }
}

/** @param port 0 lets the system choose */
export async function listen(server: Server, port: number): Promise<number> {
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", () => {
      server.off("error", reject);
      resolve();
    });
  });
  return (server.address() as AddressInfo).port;
}
