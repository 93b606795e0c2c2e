/** The live demo: every decision in the terminal as it is made, and traffic that goes on until interrupted. */

import { setTimeout as pause } from "node:timers/promises";
import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { decisionLineText } from "../../src/cli/decision-text.ts";
import { LocalService } from "../../src/gen/sallyport/local/v1/local_pb.ts";
import { strangersCall, Workload } from "./clients.ts";
import { ADDRESSES, DOMAIN, type World } from "./world.ts";

const HONEST_MS = 1_000;
/** The thief comes back after so many rounds of honest calls. */
const THIEF_ROUNDS = 15;

/** Prints the decisions of all three sidecars until `signal`; a sidecar that goes away ends its own part. */
export async function showDecisions(world: World, print: (line: string) => void, signal: AbortSignal): Promise<void> {
  await Promise.all(
    [world.orders, world.inventory, world.ledger].map(async ({ name, sidecar }) => {
      const client = createClient(
        LocalService,
        createConnectTransport({ httpVersion: "1.1", baseUrl: `http://${sidecar.api}` }),
      );
      try {
        for await (const { decision } of client.watchDecisions({}, { signal })) {
          if (decision !== undefined) print(`${name.padEnd(9)} ${decisionLineText(decision)}`);
        }
      } catch (error) {
        if (!signal.aborted) print(`${name}: ${error instanceof Error ? error.message : String(error)}`);
      }
    }),
  );
}

/** Two honest callers every second, and a thief with a copied token now and then, until `signal`. */
export async function keepWorking(world: World, signal: AbortSignal): Promise<void> {
  await world.setPolicy({});
  const { orders, pki, issuer } = world;
  const at = (localAddress: string) => ({ port: orders.envoy.port, caPem: pki.caPem, localAddress });
  const certificate = await pki.issue({ spiffeId: `spiffe://${DOMAIN}/ns/shop/sa/web` });
  const web = new Workload({ caller: { ...at(ADDRESSES.webDeployed), certificate }, agent: "web/1.5.0 node", issuer });
  const billing = new Workload({
    caller: at(ADDRESSES.billing),
    agent: "billing/2.1.0 node",
    issuer,
    subject: "billing",
  });
  try {
    for (let round = 1; !signal.aborted; round++) {
      await web.call({ path: "/orders" });
      await billing.call({ path: `/orders/${(round % 3) + 1}` });
      if (round % THIEF_ROUNDS === 0) {
        const headers = { authorization: `Bearer ${billing.bearer}` };
        await strangersCall(at(ADDRESSES.thief), { path: "/customers/1", headers });
      }
      await pause(HONEST_MS, undefined, { signal }).catch(() => {}); // interrupted: the loop ends
    }
  } finally {
    web.close();
    billing.close();
  }
}
