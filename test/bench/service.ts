/** Usage: tsx test/bench/service.ts orders|inventory|echo TICK_MS   A sample service in a process of its own; prints its port. */

import { startEcho } from "../../scripts/services/echo.ts";
import { startInventory } from "../../scripts/services/inventory.ts";
import { startOrders } from "../../scripts/services/orders.ts";

const [kind, tick] = process.argv.slice(2);
const tickMs = Number(tick);
const service = await (kind === "orders"
  ? startOrders(0, tickMs)
  : kind === "inventory"
    ? startInventory(0, tickMs)
    : startEcho(0));
console.log(service.port);
// Ends with the benchmark, however that ends.
process.stdin.resume().on("end", () => process.exit(0));
