/** A sample gRPC service, `shop.Inventory`: how much is in stock, and changes of it as a stream. Messages are JSON. */

import {
  type handleBidiStreamingCall,
  type handleServerStreamingCall,
  type handleUnaryCall,
  type Metadata,
  Server,
  ServerCredentials,
  type ServiceDefinition,
  status,
} from "@grpc/grpc-js";
import { Receipts, type Received, type Service } from "./service.ts";

const TICK_MS = 100;

export interface StockRequest {
  readonly item: string;
}

export interface Stock {
  readonly item: string;
  readonly count: number;
}

export interface InventoryService extends Service {
  /** Latest calls, oldest first; `method` is always POST. */
  readonly received: readonly Received[];
}

const method = <Name extends string>(path: Name, responseStream: boolean, requestStream = false) => ({
  path,
  requestStream,
  responseStream,
  requestSerialize: (value: StockRequest) => Buffer.from(JSON.stringify(value)),
  requestDeserialize: (bytes: Buffer) => JSON.parse(bytes.toString("utf8")) as StockRequest,
  responseSerialize: (value: Stock) => Buffer.from(JSON.stringify(value)),
  responseDeserialize: (bytes: Buffer) => JSON.parse(bytes.toString("utf8")) as Stock,
});

/** For grpc-js servers and clients alike. */
export const INVENTORY = {
  Get: method("/shop.Inventory/Get", false),
  Watch: method("/shop.Inventory/Watch", true),
  Reserve: method("/shop.Inventory/Reserve", true, true),
} satisfies ServiceDefinition;

/** `Get` answers with NOT_FOUND for the item `unicorn`; `Watch` sends a count every 100 ms until the caller leaves; `Reserve` answers each. */
export async function startInventory(port: number, tickMs = TICK_MS): Promise<InventoryService> {
  const receipts = new Receipts();
  const server = new Server();
  const get: handleUnaryCall<StockRequest, Stock> = (call, done) => {
    receipts.add({ method: "POST", path: INVENTORY.Get.path, headers: headersOf(call.metadata) });
    if (call.request.item === "unicorn") done({ code: status.NOT_FOUND, details: "there are no unicorns" });
    else done(null, { item: call.request.item, count: 7 });
  };
  const watch: handleServerStreamingCall<StockRequest, Stock> = (call) => {
    receipts.add({ method: "POST", path: INVENTORY.Watch.path, headers: headersOf(call.metadata) });
    let count = 0;
    const send = (): void => void call.write({ item: call.request.item, count: ++count });
    send();
    const timer = setInterval(send, tickMs);
    call.on("cancelled", () => clearInterval(timer));
    call.on("error", () => clearInterval(timer));
    call.on("close", () => clearInterval(timer));
  };
  const reserve: handleBidiStreamingCall<StockRequest, Stock> = (call) => {
    receipts.add({ method: "POST", path: INVENTORY.Reserve.path, headers: headersOf(call.metadata) });
    let count = 0;
    call.on("data", ({ item }: StockRequest) => call.write({ item, count: ++count }));
    call.on("error", () => {}); // the caller went away in the middle
    call.on("end", () => call.end());
  };
  server.addService(INVENTORY, { Get: get, Watch: watch, Reserve: reserve });
  const bound = await new Promise<number>((resolve, reject) => {
    server.bindAsync(`127.0.0.1:${port}`, ServerCredentials.createInsecure(), (error, chosen) =>
      error === null ? resolve(chosen) : reject(error),
    );
  });
  return {
    port: bound,
    received: receipts.entries,
    close: async () => server.forceShutdown(),
  };
}

function headersOf(metadata: Metadata): Record<string, string> {
  return Object.fromEntries(Object.entries(metadata.getMap()).map(([name, value]) => [name, String(value)]));
}
