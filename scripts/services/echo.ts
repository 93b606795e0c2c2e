/** A sample raw TCP service: sends back what it gets. */

import { createServer, type Socket } from "node:net";
import { listen, type Service } from "./service.ts";

export interface EchoService extends Service {
  /** Connections accepted so far. */
  readonly accepted: () => number;
}

/** @param greeting sent on connect, as server-first protocols do */
export async function startEcho(port: number, greeting = ""): Promise<EchoService> {
  const open = new Set<Socket>();
  let accepted = 0;
  const server = createServer((socket) => {
    accepted += 1;
    open.add(socket);
    socket.once("close", () => open.delete(socket));
    socket.on("error", () => socket.destroy());
    if (greeting !== "") socket.write(greeting);
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
