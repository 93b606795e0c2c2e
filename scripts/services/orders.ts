/** A sample HTTP/1.1 service that knows nothing of Sallyport: orders as JSON, server-sent events and a WebSocket. */

import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { WebSocketServer } from "ws";
import { listen, Receipts, type Received, type Service } from "./service.ts";

const BODY_BYTES_MAX = 1024 * 1024;
const ORDERS_MAX = 10_000;
const TICK_MS = 100;

export interface OrdersService extends Service {
  /** Latest requests, oldest first. */
  readonly received: readonly Received[];
}

interface Order {
  readonly id: number;
  readonly item: string;
  readonly quantity: number;
}

/**
 * `GET /orders` (`?size=N` pads every order with N bytes), `GET|DELETE /orders/{id}`, `POST /orders`, `GET /customers/{id}`,
 * `GET /admin/export` (1 MB), `GET /stream` (an event every 100 ms, or `tickMs`), `GET /download` (64 KiB every 100 ms, without end),
 * `POST /upload` (reads without end, answers with what it got) and the WebSocket `/live`, which echoes.
 */
export async function startOrders(port: number, tickMs = TICK_MS): Promise<OrdersService> {
  const receipts = new Receipts();
  const orders = new Map<number, Order>(
    [..."apple bread candle".split(" ").entries()].map(([i, item]) => [i + 1, { id: i + 1, item, quantity: 10 + i }]),
  );
  const server = createServer((request, response) => {
    receipts.add({ method: request.method ?? "", path: request.url ?? "", headers: request.headers });
    answer(orders, request, response, tickMs).catch(() => response.destroy()); // the caller went away in the middle
  });
  const live = new WebSocketServer({ server, path: "/live" });
  live.on("connection", (socket) => {
    socket.on("error", () => socket.terminate());
    socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
  });
  server.on("upgrade", (request) => receipts.add({ method: "GET", path: request.url ?? "", headers: request.headers }));
  return {
    port: await listen(server, port),
    received: receipts.entries,
    close: async () => {
      for (const socket of live.clients) socket.terminate();
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeAllConnections();
      await closed;
    },
  };
}

async function answer(
  orders: Map<number, Order>,
  request: IncomingMessage,
  response: ServerResponse,
  tickMs: number,
): Promise<void> {
  const url = new URL(request.url ?? "/", "http://service");
  const [collection = "", id] = url.pathname.split("/").slice(1);
  switch (`${request.method} /${collection}${id === undefined ? "" : "/*"}`) {
    case "GET /orders": {
      const padding = "x".repeat(Math.min(Number(url.searchParams.get("size") ?? 0) || 0, BODY_BYTES_MAX));
      return json(
        response,
        200,
        [...orders.values()].map((order) => (padding ? { ...order, padding } : order)),
      );
    }
    case "GET /orders/*": {
      const order = orders.get(Number(id));
      return order === undefined ? json(response, 404, { error: "no such order" }) : json(response, 200, order);
    }
    case "DELETE /orders/*":
      return orders.delete(Number(id)) ? json(response, 200, {}) : json(response, 404, { error: "no such order" });
    case "POST /orders": {
      const order = parseOrder(await bodyOf(request), (orders.size ? Math.max(...orders.keys()) : 0) + 1);
      if (order === undefined) return json(response, 400, { error: 'wanted {"item": text, "quantity": number}' });
      if (orders.size >= ORDERS_MAX) return json(response, 507, { error: "the book is full" });
      orders.set(order.id, order);
      return json(response, 201, order);
    }
    case "GET /customers/*":
      return json(response, 200, { id, name: `Customer ${id}` });
    case "GET /admin/*":
      return json(response, 200, { everything: "x".repeat(BODY_BYTES_MAX) });
    case "GET /stream":
      return stream(response, tickMs);
    case "GET /download":
      return download(response, tickMs);
    case "POST /upload":
      return json(response, 200, { bytes: await lengthOf(request) });
    default:
      return json(response, 404, { error: "no such route" });
  }
}

function stream(response: ServerResponse, tickMs: number): void {
  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
  let tick = 0;
  const send = (): void => void response.write(`data: ${++tick}\n\n`);
  send();
  const timer = setInterval(send, tickMs);
  response.once("close", () => clearInterval(timer));
}

function download(response: ServerResponse, tickMs: number): void {
  response.writeHead(200, { "content-type": "application/octet-stream" });
  const send = (): void => void response.write(Buffer.alloc(65_536));
  send();
  const timer = setInterval(send, tickMs);
  response.once("close", () => clearInterval(timer));
}

async function lengthOf(request: IncomingMessage): Promise<number> {
  let bytes = 0;
  for await (const part of request as AsyncIterable<Buffer>) bytes += part.length;
  return bytes;
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of request as AsyncIterable<Buffer>) {
    bytes += part.length;
    if (bytes > BODY_BYTES_MAX) return "";
    parts.push(part);
  }
  return Buffer.concat(parts).toString("utf8");
}

function parseOrder(text: string, id: number): Order | undefined {
  try {
    const { item, quantity } = JSON.parse(text) as { item?: unknown; quantity?: unknown };
    return typeof item === "string" && typeof quantity === "number" ? { id, item, quantity } : undefined;
  } catch {
    return undefined; // answered with 400
  }
}

function json(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { "content-type": "application/json" }).end(`${JSON.stringify(body)}\n`);
}
