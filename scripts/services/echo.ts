/** A sample raw TCP service: greets, as databases do, then sends back what it gets. */

import { createServer, type Socket } from "node:net";
import { listen, type Service } from "./service.ts";

export const GREETING = "ready\n";

export interface EchoService extends Service {
  /** Connections accepted so far. */
  readonly accepted: () => number;
}

export async function startEcho(port: number): Promise<EchoService> {
  const open = new Set<Socket>();
  let accepted = 0;
  const server = createServer((socket) => {
    accepted += 1;
    open.add(socket);
    socket.once("close", () => open.delete(socket));
    socket.on("error", () => socket.destroy());
    socket.write(GREETING);
    socket.pipe(socket);
  });
  return {
    port: await listen(server, port),
    accepted: () => accepted,
    close: async () => {
      const closed = new Promise((resolve) => server.close(resolve));
      for (const socket of open) socket.destroy();
      await closed;
    },
  };
}
