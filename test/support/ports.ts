/** Ports for programs that cannot be told to choose one themselves. */

import { createServer } from "node:net";
import { listen } from "../../scripts/services/service.ts";

/** A loopback port that was free a moment ago; prefer port 0 wherever the program can say what it got. */
export async function freePort(): Promise<number> {
  const server = createServer();
  const port = await listen(server, 0);
  await new Promise((resolve) => server.close(resolve));
  return port;
}
