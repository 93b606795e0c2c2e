/** What kube-proxy does for a Service, at its worst: each new connection goes to the oldest of the replicas that seem ready. */

import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import type { Test } from "tap";
import type { Webhook } from "./release.ts";

/** As slow as endpoints spread in a cluster: whoever ends at once is missed. */
const LOOK_MS = 500;

export interface Proxy {
  /** Replicas that take part, ready or not, the oldest first: in a rolling restart it is the next to go. */
  readonly replicas: Webhook[];
}

/** Listens on the Service's address; asks each replica twice a second whether it is ready, as its readiness probe would. */
export async function startProxy(t: Test, address: string): Promise<Proxy> {
  const replicas: Webhook[] = [];
  let ready: readonly Webhook[] = [];
  const look = setInterval(() => {
    void Promise.all(
      replicas.map(async (replica) => {
        const answer = await fetch(`http://${replica.health}/readyz`).catch(() => undefined); // it has ended
        return answer?.status === 200 ? [replica] : [];
      }),
    ).then((found) => {
      ready = found.flat();
    });
  }, LOOK_MS);
  const sockets = new Set<Socket>();
  const server = createServer((from) => {
    const replica = ready[0];
    if (replica === undefined) {
      from.destroy();
      return;
    }
    const [host, port] = replica.address.split(":");
    const to = connect({ host: host ?? "", port: Number(port) });
    for (const [one, other] of [
      [from, to],
      [to, from],
    ] as const) {
      sockets.add(one);
      one.pipe(other);
      one.on("error", () => other.destroy()); // as the network would
      one.on("close", () => {
        sockets.delete(one);
        other.end();
      });
    }
  });
  const [host, port] = address.split(":");
  server.listen(Number(port), host);
  await once(server, "listening");
  t.teardown(async () => {
    clearInterval(look);
    server.close();
    for (const socket of sockets) socket.destroy();
    await once(server, "close");
  });
  return { replicas };
}
