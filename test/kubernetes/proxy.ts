/** What kube-proxy does for a Service: each new connection goes to one of the replicas that are ready. */

import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import type { Test } from "tap";
import type { Webhook } from "./release.ts";

const LOOK_MS = 50;

export interface Proxy {
  /** Replicas that take part, ready or not. */
  readonly replicas: Webhook[];
}

/** Listens on the Service's address; asks each replica every 50 ms whether it is ready, as its readiness probe would. */
export async function startProxy(t: Test, address: string): Promise<Proxy> {
  const replicas: Webhook[] = [];
  let ready: readonly Webhook[] = [];
  let turn = 0;
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
    const replica = ready[turn++ % Math.max(1, ready.length)];
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
