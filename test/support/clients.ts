/** Callers of several kinds, each with the TLS fingerprint of its library: Node, grpc-js, curl, Python and bare TLS. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import type { IncomingHttpHeaders, IncomingMessage } from "node:http";
import { connect as connectHttp2 } from "node:http2";
import { Agent, request as httpsRequest } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect, type TLSSocket } from "node:tls";
import {
  type ClientDuplexStream,
  type ClientReadableStream,
  credentials,
  Metadata,
  makeClientConstructor,
  type ServiceError,
} from "@grpc/grpc-js";
import type { Issued } from "../../scripts/pki.ts";
import { INVENTORY, type Stock, type StockRequest } from "../../scripts/services/inventory.ts";

/** Where to call and as whom. */
export interface Caller {
  readonly port: number;
  readonly caPem: string;
  /** Absent: no client certificate. */
  readonly certificate?: Issued | undefined;
  /** An address of this machine to call from, for example `127.0.0.5`. */
  readonly localAddress?: string | undefined;
  /** OpenSSL cipher list; another list gives another JA3 and JA4. */
  readonly ciphers?: string | undefined;
  /** Asked for in the TLS handshake (SNI); `localhost` by default. Its certificate is then not compared with it. */
  readonly serverName?: string | undefined;
}

export interface Answer {
  readonly status: number;
  /** Lower-case names. */
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}

export interface Call {
  readonly path: string;
  readonly method?: string | undefined;
  readonly headers?: Readonly<Record<string, string | readonly string[]>> | undefined;
  readonly body?: string | undefined;
}

/** An HTTP/1.1 caller that keeps one connection, as a service's own client does. */
export interface NodeClient {
  send(call: Call): Promise<Answer>;
  /** An answer whose body is still coming, for example server-sent events. */
  open(call: Call): Promise<IncomingMessage>;
  /** Connections made so far. */
  connections(): number;
  close(): void;
}

export function nodeClient(caller: Caller): NodeClient {
  const agent = new Agent({ keepAlive: true, maxSockets: 1, ...tlsOptions(caller) });
  const sockets = new WeakSet<object>();
  let connections = 0;
  const open = (call: Call): Promise<IncomingMessage> =>
    new Promise((resolve, reject) => {
      const request = httpsRequest(
        {
          agent,
          host: "127.0.0.1",
          port: caller.port,
          path: call.path,
          method: call.method ?? "GET",
          headers: { host: "orders.shop.example", ...call.headers },
          ...(caller.localAddress === undefined ? {} : { localAddress: caller.localAddress }),
        },
        resolve,
      );
      request.on("socket", (socket) => {
        if (sockets.has(socket)) return;
        sockets.add(socket);
        connections += 1;
      });
      request.on("error", reject);
      request.end(call.body);
    });
  return {
    open,
    send: async (call) => {
      const response = await open(call);
      const parts: Buffer[] = [];
      for await (const part of response as AsyncIterable<Buffer>) parts.push(part);
      const body = Buffer.concat(parts).toString("utf8");
      return { status: response.statusCode ?? 0, headers: response.headers, body };
    },
    connections: () => connections,
    close: () => agent.destroy(),
  };
}

/** One HTTP/1.1 request on a connection of its own. */
export async function fetchOnce(caller: Caller, call: Call): Promise<Answer> {
  const client = nodeClient(caller);
  try {
    return await client.send(call);
  } finally {
    client.close();
  }
}

/** A caller that speaks HTTP/2 over one connection. */
export interface Http2Client {
  send(call: Call): Promise<Answer>;
  /** Resolves when the server has told the connection to go away. */
  readonly goneAway: Promise<void>;
  /** Resolves when the connection is gone. */
  readonly closed: Promise<void>;
  close(): void;
}

export async function http2Client(caller: Caller): Promise<Http2Client> {
  const session = connectHttp2(`https://127.0.0.1:${caller.port}`, {
    ...tlsOptions(caller),
    ALPNProtocols: ["h2"],
    ...(caller.localAddress === undefined ? {} : { localAddress: caller.localAddress }),
  });
  session.on("error", () => {}); // told by the calls that fail
  const goneAway = new Promise<void>((resolve) => session.once("goaway", () => resolve()));
  const closed = new Promise<void>((resolve) => session.once("close", () => resolve()));
  await once(session, "connect");
  return {
    goneAway,
    closed,
    send: async ({ path, method = "GET", headers = {}, body }) => {
      const stream = session.request({
        ":path": path,
        ":method": method,
        ":authority": "orders.shop.example",
        ...headers,
      });
      stream.end(body);
      const [received] = (await once(stream, "response")) as [IncomingHttpHeaders & { ":status"?: number }];
      const parts: Buffer[] = [];
      for await (const part of stream as AsyncIterable<Buffer>) parts.push(part);
      return { status: received[":status"] ?? 0, headers: received, body: Buffer.concat(parts).toString("utf8") };
    },
    close: () => session.close(),
  };
}

/** How a gRPC call ended. */
export interface GrpcAnswer {
  /** gRPC status code; 0 is OK. */
  readonly code: number;
  readonly message: string;
  readonly stock: Stock | undefined;
  /** Headers that came with the status. */
  readonly metadata: Metadata;
}

export interface GrpcClient {
  get(item: string, headers?: Readonly<Record<string, string>>): Promise<GrpcAnswer>;
  watch(item: string, headers?: Readonly<Record<string, string>>): ClientReadableStream<Stock>;
  /** Both sides send for as long as they like. */
  reserve(): ClientDuplexStream<StockRequest, Stock>;
  close(): void;
}

const InventoryClient = makeClientConstructor(INVENTORY, "Inventory");

export function grpcClient(caller: Caller): GrpcClient {
  const { certificate } = caller;
  const channel = credentials.createSsl(
    Buffer.from(caller.caPem),
    certificate === undefined ? null : Buffer.from(certificate.keyPem),
    certificate === undefined ? null : Buffer.from(certificate.certPem),
  );
  const client = new InventoryClient(`127.0.0.1:${caller.port}`, channel, {
    "grpc.ssl_target_name_override": "localhost",
    "grpc.default_authority": "inventory.shop.example",
    // Each client its own connection, as separate processes have.
    "grpc.use_local_subchannel_pool": 1,
  });
  const metadataOf = (headers: Readonly<Record<string, string>> = {}): Metadata => {
    const metadata = new Metadata();
    for (const [name, value] of Object.entries(headers)) metadata.add(name, value);
    return metadata;
  };
  return {
    get: (item, headers) =>
      new Promise((resolve) => {
        const done = (error: ServiceError | null, stock?: Stock): void =>
          resolve({
            code: error?.code ?? 0,
            message: error?.details ?? "",
            stock,
            metadata: error?.metadata ?? new Metadata(),
          });
        (client.Get as (...given: unknown[]) => void).call(client, { item }, metadataOf(headers), done);
      }),
    watch: (item, headers) =>
      (client.Watch as (...given: unknown[]) => ClientReadableStream<Stock>).call(
        client,
        { item },
        metadataOf(headers),
      ),
    reserve: () =>
      (client.Reserve as (...given: unknown[]) => ClientDuplexStream<StockRequest, Stock>).call(client, metadataOf()),
    close: () => client.close(),
  };
}

/** One request by curl; `flags` are its own, for example `["--http1.1"]` or `["--tls-max", "1.2"]`. */
export async function curl(caller: Caller, call: Call, flags: readonly string[] = []): Promise<Answer> {
  return await withFiles(caller, async (files) => {
    const headers = Object.entries(call.headers ?? {}).flatMap(([name, values]) =>
      [values].flat().flatMap((value) => ["--header", `${name}: ${String(value)}`]),
    );
    const output = await run("curl", [
      ...["--silent", "--show-error", "--include", "--max-time", "10", "--path-as-is", "--cacert", files.ca],
      ...(files.cert === undefined ? [] : ["--cert", files.cert, "--key", files.key]),
      ...(caller.localAddress === undefined ? [] : ["--interface", caller.localAddress]),
      ...(caller.ciphers === undefined ? [] : ["--ciphers", caller.ciphers]),
      ...(call.method === undefined ? [] : ["--request", call.method]),
      ...(call.body === undefined ? [] : ["--data-binary", call.body]),
      ...headers,
      ...flags,
      `https://127.0.0.1:${caller.port}${call.path}`,
    ]);
    return parseAnswer(output);
  });
}

const PYTHON = `
import http.client, json, ssl, sys
o = json.loads(sys.argv[1])
context = ssl.create_default_context(cafile=o["ca"])
if o.get("cert"): context.load_cert_chain(o["cert"], o["key"])
if o.get("ciphers"): context.set_ciphers(o["ciphers"])
source = (o["local"], 0) if o.get("local") else None
connection = http.client.HTTPSConnection("127.0.0.1", o["port"], context=context, source_address=source, timeout=10)
connection.request(o["method"], o["path"], body=o.get("body"), headers=o["headers"])
answer = connection.getresponse()
headers = {name.lower(): value for name, value in answer.getheaders()}
print(json.dumps({"status": answer.status, "headers": headers, "body": answer.read().decode()}))
`;

/** One HTTP/1.1 request by Python's http.client. */
export async function python(caller: Caller, call: Call): Promise<Answer> {
  return await withFiles(caller, async (files) => {
    const options = {
      ...files,
      ...call,
      method: call.method ?? "GET",
      headers: call.headers ?? {},
      port: caller.port,
      local: caller.localAddress,
      ciphers: caller.ciphers,
    };
    return JSON.parse(await run("python3", ["-c", PYTHON, JSON.stringify(options)])) as Answer;
  });
}

export interface TlsConnection {
  readonly socket: TLSSocket;
  /** All that has come so far. */
  received(): string;
  /** Resolves once `text` has come; rejects when the connection ends first. */
  until(text: string): Promise<void>;
  /** Resolves when the connection is gone: with the error's code, for example a TLS alert, or `undefined`. */
  readonly closed: Promise<string | undefined>;
}

/** A TLS connection without any protocol on top. With TLS 1.3 it opens before the server has judged the certificate. */
export async function tlsConnection(caller: Caller): Promise<TlsConnection> {
  const socket = connect({
    host: "127.0.0.1",
    port: caller.port,
    ...tlsOptions(caller),
    ...(caller.localAddress === undefined ? {} : { localAddress: caller.localAddress }),
  });
  let text = "";
  let code: string | undefined;
  socket.on("data", (part: Buffer) => {
    text += part.toString("utf8");
  });
  const closed = new Promise<string | undefined>((resolve) => socket.once("close", () => resolve(code)));
  socket.on("error", (error: NodeJS.ErrnoException) => {
    code = error.code;
  });
  await once(socket, "secureConnect");
  return {
    socket,
    closed,
    received: () => text,
    until: async (wanted) => {
      while (!text.includes(wanted)) {
        const more = await Promise.race([once(socket, "data"), closed.then(() => undefined)]);
        if (more === undefined)
          throw new Error(`connection ended after ${JSON.stringify(text)}: ${code ?? "no error"}`);
      }
    },
  };
}

function tlsOptions(caller: Caller) {
  return {
    ca: caller.caPem,
    servername: caller.serverName ?? "localhost",
    ...(caller.serverName === undefined ? {} : { checkServerIdentity: () => undefined }),
    ...(caller.certificate === undefined ? {} : { cert: caller.certificate.certPem, key: caller.certificate.keyPem }),
    ...(caller.ciphers === undefined ? {} : { ciphers: caller.ciphers }),
  };
}

interface Files {
  readonly ca: string;
  readonly cert: string | undefined;
  readonly key: string;
}

async function withFiles<T>(caller: Caller, use: (files: Files) => Promise<T>): Promise<T> {
  const directory = await mkdtemp(join(tmpdir(), "sallyport-client-"));
  const { certificate } = caller;
  const files = {
    ca: join(directory, "ca.crt"),
    cert: certificate === undefined ? undefined : join(directory, "client.crt"),
    key: join(directory, "client.key"),
  };
  try {
    await writeFile(files.ca, caller.caPem);
    if (certificate !== undefined && files.cert !== undefined) {
      await writeFile(files.cert, certificate.certPem);
      await writeFile(files.key, certificate.keyPem, { mode: 0o600 });
    }
    return await use(files);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/** @throws {Error} with what the program said when it fails, for example because TLS was refused */
async function run(program: string, given: readonly string[]): Promise<string> {
  const child = spawn(program, given, { stdio: ["ignore", "pipe", "pipe"] });
  let out = "";
  let complaint = "";
  child.stdout.setEncoding("utf8").on("data", (part: string) => {
    out += part;
  });
  child.stderr.setEncoding("utf8").on("data", (part: string) => {
    complaint += part;
  });
  const [code] = (await once(child, "close")) as [number | null];
  if (code !== 0) throw new Error(`${program} ended with ${code}: ${complaint.trim()}`);
  return out;
}

function parseAnswer(output: string): Answer {
  const end = output.indexOf("\r\n\r\n");
  const [first = "", ...lines] = output.slice(0, end).split("\r\n");
  if (/^HTTP\/\S+ 1\d\d/.test(first)) return parseAnswer(output.slice(end + 4));
  const headers: Record<string, string> = {};
  for (const line of lines) {
    const colon = line.indexOf(":");
    headers[line.slice(0, colon).toLowerCase()] = line.slice(colon + 1).trim();
  }
  return { status: Number(first.split(" ")[1]), headers, body: output.slice(end + 4) };
}
