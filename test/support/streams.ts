/** Streams of every kind, from real clients, that tell when they are over. */

import { once } from "node:events";
import { type ClientHttp2Session, connect as connectHttp2 } from "node:http2";
import { request as httpsRequest } from "node:https";
import WebSocket, { type ClientOptions } from "ws";
import { type Caller, type GrpcClient, nodeClient, tlsConnection } from "./clients.ts";

/** A stream that is open, and has carried something. */
export interface Stream {
  /** Resolves when it is over, with the monotonic milliseconds at which its client knew. */
  readonly over: Promise<number>;
  readonly isOpen: () => boolean;
  close(): void;
}

function streamOf(onOver: (done: () => void) => void, close: () => void): Stream {
  let open = true;
  const over = new Promise<number>((resolve) =>
    onOver(() => {
      if (open) resolve(performance.now());
      open = false;
    }),
  );
  return { over, isOpen: () => open, close };
}

const HOST = "orders.shop.example";

/** An HTTP/2 connection, for many streams. */
export async function http2Session(caller: Caller): Promise<ClientHttp2Session> {
  const session = connectHttp2(`https://127.0.0.1:${caller.port}`, {
    ca: caller.caPem,
    servername: "localhost",
    ALPNProtocols: ["h2"],
    ...(caller.certificate === undefined ? {} : { cert: caller.certificate.certPem, key: caller.certificate.keyPem }),
  });
  session.on("error", () => {}); // told by its streams
  await once(session, "connect");
  return session;
}

/** Server-sent events, or any endless answer, over HTTP/2. */
export async function answerOverHttp2(
  session: ClientHttp2Session,
  path = "/stream",
  headers: Readonly<Record<string, string>> = {},
): Promise<Stream> {
  const stream = session.request({ ":path": path, ":authority": HOST, ...headers });
  stream.on("error", () => {}); // "close" follows
  await once(stream, "data");
  stream.resume();
  return streamOf(
    (done) => stream.once("close", done),
    () => stream.destroy(),
  );
}

/** Server-sent events, or any endless answer, over HTTP/1.1. */
export async function answerOverHttp1(
  caller: Caller,
  path = "/stream",
  headers: Readonly<Record<string, string>> = {},
): Promise<Stream> {
  const client = nodeClient(caller);
  const response = await client.open({ path, headers });
  response.on("error", () => {}); // "close" follows
  const stream = streamOf(
    (done) => response.once("close", done),
    () => client.close(),
  );
  // One that is refused without a word is over before anything comes.
  await Promise.race([once(response, "data"), stream.over, once(response, "end")]);
  response.resume();
  return stream;
}

/** A body that is being sent, without end. */
export async function uploadOverHttp1(caller: Caller): Promise<Stream> {
  const request = httpsRequest({
    host: "127.0.0.1",
    port: caller.port,
    path: "/upload",
    method: "POST",
    headers: { host: HOST, "transfer-encoding": "chunked" },
    ca: caller.caPem,
    servername: "localhost",
    agent: false,
    ...(caller.certificate === undefined ? {} : { cert: caller.certificate.certPem, key: caller.certificate.keyPem }),
  });
  request.on("error", () => {}); // "close" follows
  const timer = setInterval(() => request.write(Buffer.alloc(4096)), 20);
  request.write(Buffer.alloc(4096));
  request.once("close", () => clearInterval(timer));
  return streamOf(
    (done) => {
      request.once("close", done);
      request.once("response", (response) => {
        response.resume();
        done();
      });
    },
    () => request.destroy(),
  );
}

export async function uploadOverHttp2(session: ClientHttp2Session): Promise<Stream> {
  const stream = session.request({ ":path": "/upload", ":method": "POST", ":authority": HOST });
  stream.on("error", () => {}); // "close" follows
  stream.resume();
  const timer = setInterval(() => stream.write(Buffer.alloc(4096)), 20);
  stream.write(Buffer.alloc(4096));
  stream.once("close", () => clearInterval(timer));
  return streamOf(
    (done) => stream.once("close", done),
    () => stream.destroy(),
  );
}

export async function webSocket(caller: Caller): Promise<Stream> {
  const options: ClientOptions & { readonly servername: string } = {
    ca: caller.caPem,
    servername: "localhost",
    headers: { host: HOST },
    ...(caller.certificate === undefined ? {} : { cert: caller.certificate.certPem, key: caller.certificate.keyPem }),
  };
  const socket = new WebSocket(`wss://127.0.0.1:${caller.port}/live`, options);
  socket.on("error", () => {}); // "close" follows
  await once(socket, "open");
  socket.send("hello");
  await once(socket, "message");
  return streamOf(
    (done) => socket.once("close", done),
    () => socket.terminate(),
  );
}

/** gRPC, the server sending. */
export async function grpcAnswers(client: GrpcClient): Promise<Stream> {
  const call = client.watch("apple");
  const over = streamOf(
    (done) => {
      call.on("error", done);
      call.on("end", done);
    },
    () => call.cancel(),
  );
  await once(call, "data");
  return over;
}

/** gRPC, both sides sending. */
export async function grpcBoth(client: GrpcClient): Promise<Stream> {
  const call = client.reserve();
  const over = streamOf(
    (done) => {
      call.on("error", done);
      call.on("end", done);
    },
    () => call.cancel(),
  );
  call.write({ item: "apple" });
  await once(call, "data");
  return over;
}

/** Raw TCP inside TLS. */
export async function rawTcp(caller: Caller): Promise<Stream> {
  const connection = await tlsConnection(caller);
  connection.socket.write("hello");
  await connection.until("hello");
  return streamOf(
    (done) => void connection.closed.then(done),
    () => connection.socket.destroy(),
  );
}
