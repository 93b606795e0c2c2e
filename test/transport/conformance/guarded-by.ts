/** A real Envoy whose checks go to a sidecar on one of its transports, and load for it. */

import type { Test } from "tap";
import type { Change } from "../../support/bootstrap.ts";
import { http2Client } from "../../support/clients.ts";
import { type GuardedService, type OrdersService, startGuarded, startOrders } from "../../support/guarded.ts";
import { type TransportName, transportFlags } from "./served.ts";

export type Guarded = GuardedService<OrdersService>;

/** Observes only, so that whatever callers do, a check that is answered lets them pass. */
export async function guardedBy(t: Test, transport: TransportName, change?: Change): Promise<Guarded> {
  const guarded = await startGuarded({
    config: "envoy/http-mtls.yaml",
    service: startOrders,
    flags: ["--mode", "observe", ...(await transportFlags(transport))],
    ...(change === undefined ? {} : { change }),
  });
  t.teardown(() => guarded.stop());
  return guarded;
}

/** A counter or gauge of Envoy's about its connections to the Check listener. */
export async function ofChecks({ envoy }: Guarded, name: string): Promise<number> {
  const text = await envoy.admin(`/stats?filter=^cluster.sallyport_check.${name}$`);
  return Number(/: (\d+)/.exec(text)?.[1] ?? 0);
}

/** Sends `count` requests over one HTTP/2 connection, `atOnce` at a time, and counts answers by status. */
export async function sendMany(
  guarded: Guarded,
  count: number,
  atOnce: number,
): Promise<Readonly<Record<string, number>>> {
  const client = await http2Client(await guarded.caller("web"));
  const statuses: Record<string, number> = {};
  let left = count;
  const worker = async (): Promise<void> => {
    while (left-- > 0) {
      const { status } = await client.send({ path: "/orders/1" });
      statuses[status] = (statuses[status] ?? 0) + 1;
    }
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
  client.close();
  return statuses;
}
