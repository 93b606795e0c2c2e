/** Tests that policy from an address comes in conditionally, within bounds, and with patience. */

import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { type AddressInfo, connect } from "node:net";
import { dirname, join } from "node:path";
import { brotliCompressSync, gzipSync } from "node:zlib";
import t, { type Test } from "tap";
import { createPki } from "../../../scripts/pki.ts";
import { type FetchLimits, retryAfterOf } from "../../../src/bundle/sync/fetch.ts";
import type { OfferResult, SourceListener } from "../../../src/bundle/sync/source.ts";
import { UrlSource, type UrlSourceOptions } from "../../../src/bundle/sync/url-source.ts";
import { OperatingError } from "../../../src/model/errors.ts";

const BYTES_MAX = 100_000;
const LIMITS: FetchLimits = { connectMs: 2_000, headersMs: 10_000, bodyMs: 10_000, totalMs: 20_000 };

interface Scene {
  readonly source: UrlSource;
  /** What the source told, in order. */
  readonly told: string[];
  /** Waits between looks, milliseconds. */
  readonly waits: number[];
  /** Goes on from the wait that it is in, and returns when it has looked and waits again. */
  readonly look: () => Promise<void>;
  readonly requests: IncomingMessage["headers"][];
}

interface SceneOptions extends Partial<UrlSourceOptions> {
  readonly answer: (request: IncomingMessage, response: ServerResponse, count: number) => void;
  readonly offered?: (bytes: Uint8Array) => OfferResult;
}

async function serve(t: Test, listener: RequestListener): Promise<URL> {
  const server = createServer(listener);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}/p.bundle?signature=hidden`);
}

async function scene(t: Test, { answer, offered, ...options }: SceneOptions): Promise<Scene> {
  const requests: IncomingMessage["headers"][] = [];
  const url =
    options.url ??
    (await serve(t, (request, response) => {
      requests.push(request.headers);
      answer(request, response, requests.length);
    }));
  const told: string[] = [];
  const waits: number[] = [];
  let goOn = (): void => {};
  let waiting = (): void => {};
  const listener: SourceListener = {
    offer: async (origin) => {
      const bytes = origin.kind === "bytes" ? origin.bytes : new Uint8Array();
      told.push(`offer ${bytes.length > 40 ? `${bytes.length} bytes` : Buffer.from(bytes).toString()}`);
      return offered?.(bytes) ?? { kind: "in_force", bundle: undefined, files: [] };
    },
    confirmed: () => void told.push("confirmed"),
    failed: (error) => void told.push(`failed ${error.code} ${error.message.replace(/127\.0\.0\.1:\d+/, "HOST")}`),
  };
  const source = new UrlSource({
    url,
    pollMs: 60_000,
    bytesMax: BYTES_MAX,
    tokenFile: undefined,
    caFile: undefined,
    limits: LIMITS,
    monotonicMs: () => 0,
    ...options,
    clock: options.clock ?? {
      now: () => 1_800_000_000_000,
      random: () => 0.5,
      sleep: (ms, signal) => {
        waits.push(ms);
        waiting();
        return new Promise((resolve) => {
          goOn = resolve;
          signal.addEventListener("abort", () => resolve());
        });
      },
    },
  });
  const begun = new Promise<void>((resolve) => (waiting = resolve));
  source.start(listener);
  t.teardown(() => source.close());
  await begun;
  const look = async (): Promise<void> => {
    const again = new Promise<void>((resolve) => (waiting = resolve));
    goOn();
    await again;
  };
  return { source, told, waits, look, requests };
}

const refused: OfferResult = { kind: "refused", error: new OperatingError("ERR_BUNDLE_SIGNATURE", "no"), files: [] };

t.test("content is offered once, then asked for conditionally", async (t) => {
  const { told, look, requests, waits } = await scene(t, {
    answer: (request, response) => {
      if (request.headers["if-none-match"] === '"1"') response.writeHead(304).end();
      else response.writeHead(200, { etag: '"1"', "last-modified": "Tue, 01 Jan 2030 00:00:00 GMT" }).end("one");
    },
  });
  await look();
  t.same(told, ["offer one", "confirmed"]);
  t.match(requests[1], { "if-none-match": '"1"', "if-modified-since": "Tue, 01 Jan 2030 00:00:00 GMT" });
  t.same(waits, [60_000, 60_000]);
});

t.test("what was refused is not confirmed by its own validator, and asked for with growing patience", async (t) => {
  const { told, look, waits } = await scene(t, {
    offered: () => refused,
    answer: (request, response) => {
      if (request.headers["if-none-match"] !== undefined) response.writeHead(304).end();
      else response.writeHead(200, { etag: '"bad"' }).end("bad");
    },
  });
  await look();
  await look();
  t.same(told, ["offer bad"]);
  t.same(waits, [750, 1_500, 3_000]);
});

t.test("what was refused is asked for whole again after ten minutes", async (t) => {
  let ms = 0;
  const { told, look } = await scene(t, {
    monotonicMs: () => ms,
    offered: () => refused,
    answer: (request, response) => {
      if (request.headers["if-none-match"] !== undefined) response.writeHead(304).end();
      else response.writeHead(200, { etag: '"bad"' }).end("bad");
    },
  });
  ms = 599_999;
  await look();
  t.same(told, ["offer bad"]);
  ms = 600_000;
  await look();
  t.same(told, ["offer bad", "offer bad"]);
});

t.test("failures are retried with doubled, jittered waits up to five minutes; success ends that", async (t) => {
  const { waits, look, told } = await scene(t, {
    answer: (_request, response, count) => response.writeHead(count <= 12 ? 500 : 200).end("ok"),
  });
  for (let i = 0; i < 12; i++) await look();
  t.same(waits, [750, 1_500, 3_000, 6_000, 12_000, 24_000, 48_000, 96_000, 192_000, 225_000, 225_000, 225_000, 60_000]);
  t.equal(told[0], "failed ERR_BUNDLE_UNREACHABLE http://HOST/p.bundle: expected status 200 or 304, got 500");
  t.equal(told[12], "offer ok");
});

for (const { name, header, want } of [
  { name: "in seconds", header: "120", want: 120_000 },
  { name: "as a date", header: new Date(1_800_000_000_000 + 90_000).toUTCString(), want: 90_000 },
  { name: "shorter than the back-off", header: "0", want: 750 },
  { name: "of a day, cut to an hour", header: "86400", want: 3_600_000 },
  { name: "that is neither", header: "soon", want: 750 },
]) {
  t.test(`Retry-After ${name} is honoured within bounds`, async (t) => {
    const { waits } = await scene(t, {
      answer: (_request, response) => response.writeHead(503, { "retry-after": header }).end(),
    });
    t.same(waits, [want]);
  });
}

t.test("a date that is over asks for no patience", async (t) => {
  t.equal(retryAfterOf(new Date(1_000_000).toUTCString(), 2_000_000), 0);
});

for (const { random, want } of [
  { random: 0, want: 54_000 },
  { random: 0.999_999, want: 66_000 },
]) {
  t.test(`polls drift apart by a tenth: ${want}`, async (t) => {
    const waits: number[] = [];
    let waited = (): void => {};
    const first = new Promise<void>((resolve) => (waited = resolve));
    const url = await serve(t, (_request, response) => response.end("x"));
    const source = new UrlSource({
      ...{ url, pollMs: 60_000, bytesMax: BYTES_MAX, tokenFile: undefined, caFile: undefined, limits: LIMITS },
      monotonicMs: () => 0,
      clock: {
        now: () => 0,
        random: () => random,
        sleep: (ms, signal) => {
          waits.push(ms);
          waited();
          return new Promise((resolve) => signal.addEventListener("abort", () => resolve()));
        },
      },
    });
    t.teardown(() => source.close());
    source.start({
      offer: async () => ({ kind: "in_force", bundle: undefined, files: [] }),
      confirmed: () => {},
      failed: () => {},
    });
    await first;
    t.equal(Math.round(waits[0] ?? 0), want);
  });
}

const big = Buffer.alloc(BYTES_MAX + 1);
const faults: {
  readonly name: string;
  readonly limits?: Partial<FetchLimits>;
  readonly answer: SceneOptions["answer"];
  readonly want: RegExp;
}[] = [
  {
    name: "never answers",
    limits: { headersMs: 50 },
    answer: () => {},
    want: /^failed ERR_BUNDLE_UNREACHABLE .*no answer within the time/,
  },
  {
    name: "sends half and then nothing",
    limits: { bodyMs: 50 },
    answer: (_request, response) => void response.writeHead(200, { "content-length": "10" }).write("half"),
    want: /^failed ERR_BUNDLE_UNREACHABLE .*stopped halfway/,
  },
  {
    name: "trickles without end",
    limits: { totalMs: 300 },
    answer: (_request, response) => {
      response.writeHead(200);
      const timer = setInterval(() => response.write("."), 20);
      response.on("close", () => clearInterval(timer));
    },
    want: /^failed ERR_BUNDLE_UNREACHABLE .*not answered in full within the time/,
  },
  {
    name: "trickles gzip without end",
    limits: { totalMs: 300 },
    answer: (_request, response) => {
      response.writeHead(200, { "content-encoding": "gzip" });
      response.write(gzipSync("x").subarray(0, 10));
      const timer = setInterval(() => response.flushHeaders(), 10);
      response.on("close", () => clearInterval(timer));
    },
    want: /^failed ERR_BUNDLE_UNREACHABLE .*not answered in full within the time/,
  },
  {
    name: "sends half and hangs up",
    answer: (_request, response) => {
      response.writeHead(200, { "content-length": "10" });
      response.write("half", () => response.destroy());
    },
    want: /^failed ERR_BUNDLE_UNREACHABLE .*cut off/,
  },
  {
    name: "sends half in chunks and hangs up",
    answer: (_request, response) => void response.write("half", () => response.destroy()),
    want: /^failed ERR_BUNDLE_UNREACHABLE .*cut off/,
  },
  {
    name: "announces 1 GB",
    answer: (_request, response) => void response.writeHead(200, { "content-length": "1073741824" }).write("x"),
    want: /^failed ERR_BUNDLE_TOO_LARGE .*got 1073741824 bytes/,
  },
  {
    name: "sends without end",
    answer: (_request, response) => {
      const more = (): void => {
        while (!response.destroyed && response.write(big));
        response.once("drain", more);
      };
      more();
    },
    want: /^failed ERR_BUNDLE_TOO_LARGE .*got more$/,
  },
  {
    name: "sends a gzip bomb",
    answer: (_request, response) =>
      void response.writeHead(200, { "content-encoding": "gzip" }).end(gzipSync(Buffer.alloc(50_000_000))),
    want: /^failed ERR_BUNDLE_TOO_LARGE .*more after unpacking/,
  },
  {
    name: "sends a Brotli bomb",
    answer: (_request, response) =>
      void response.writeHead(200, { "content-encoding": "br" }).end(brotliCompressSync(Buffer.alloc(50_000_000))),
    want: /^failed ERR_BUNDLE_TOO_LARGE .*more after unpacking/,
  },
  {
    name: "sends gzip that is none",
    answer: (_request, response) => void response.writeHead(200, { "content-encoding": "gzip" }).end("nonsense"),
    want: /^failed ERR_BUNDLE_UNREACHABLE .*Z_DATA_ERROR/,
  },
  {
    name: "sends an encoding that nobody asked for",
    answer: (_request, response) => void response.writeHead(200, { "content-encoding": "zstd" }).end("x"),
    want: /^failed ERR_BUNDLE_UNREACHABLE .*Content-Encoding/,
  },
  {
    name: "says not found",
    answer: (_request, response) => void response.writeHead(404).end("secret"),
    want: /got 404$/,
  },
  {
    name: "says not modified without having been asked",
    answer: (_request, response) => void response.writeHead(304).end(),
    want: /got 304$/,
  },
  {
    name: "leads elsewhere",
    answer: (_request, response) => void response.writeHead(302, { location: "http://localhost:1/p" }).end(),
    want: /^failed ERR_BUNDLE_UNREACHABLE .*no redirect away from .*got one to http:\/\/localhost:1$/,
  },
  {
    name: "leads in circles",
    answer: (_request, response) => void response.writeHead(302, { location: "/p.bundle" }).end(),
    want: /at most 5 redirects/,
  },
];

for (const { name, limits, answer, want } of faults) {
  t.test(`a server that ${name} is given up`, async (t) => {
    const { told, waits } = await scene(t, { answer, limits: { ...LIMITS, ...limits } });
    t.equal(told.length, 1);
    t.match(told[0], want);
    t.notMatch(told[0], /hidden|secret/, "neither the query nor the answer is shown");
    t.same(waits, [750], "and asked again later");
  });
}

t.test("redirects within the same origin are followed", async (t) => {
  const { told } = await scene(t, {
    answer: ({ url }, response) =>
      void (url === "/latest" ? response.end("there") : response.writeHead(307, { location: "/latest" }).end()),
  });
  t.same(told, ["offer there"]);
});

t.test("packed answers are unpacked", async (t) => {
  for (const [encoding, pack] of [
    ["gzip", gzipSync],
    ["br", brotliCompressSync],
  ] as const) {
    const { told } = await scene(t, {
      answer: (_request, response) => void response.writeHead(200, { "content-encoding": encoding }).end(pack("text")),
    });
    t.same(told, ["offer text"], encoding);
  }
});

t.test("the bearer token is read anew, never shown, and its absence is told", async (t) => {
  const tokenFile = join(t.testdir({ token: "first\n" }), "token");
  const { requests, look, told } = await scene(t, {
    tokenFile,
    answer: (_request, response) => void response.end("x"),
  });
  writeFileSync(tokenFile, "second");
  await look();
  t.same(
    requests.map(({ authorization }) => authorization),
    ["Bearer first", "Bearer second"],
  );
  writeFileSync(tokenFile, "two words");
  await look();
  t.match(told.at(-1), /policy-token-file .*expected one token/);
  t.notMatch(told.at(-1), /two words/);
});

t.test("HTTPS is believed by the given certificates, and by no others", async (t) => {
  const pki = await createPki();
  const server = await pki.issue({ dns: ["localhost"] });
  const tls = createTlsServer({ cert: server.certPem, key: server.keyPem }, (_request, response) =>
    response.end("safe"),
  );
  tls.listen(0, "127.0.0.1");
  await once(tls, "listening");
  t.teardown(() => tls.close());
  const url = new URL(`https://localhost:${(tls.address() as AddressInfo).port}/p`);
  const caFile = join(t.testdir({ "ca.pem": pki.caPem }), "ca.pem");
  t.same((await scene(t, { url, caFile, answer: () => {} })).told, ["offer safe"]);
  const strange = await scene(t, { url, answer: () => {} });
  t.match(strange.told, [/^failed ERR_BUNDLE_UNREACHABLE .*(CERT|SIGNATURE)/]);
});

t.test("an https address is asked by way of the environment's proxy, which sees no more than its name", async (t) => {
  const pki = await createPki();
  const server = await pki.issue({ dns: ["localhost"] });
  const tls = createTlsServer({ cert: server.certPem, key: server.keyPem }, (_request, response) =>
    response.end("by proxy"),
  );
  tls.listen(0, "127.0.0.1");
  await once(tls, "listening");
  const asked: string[] = [];
  const proxy = createServer((_request, response) => response.writeHead(405).end());
  proxy.on("connect", (request, socket) => {
    asked.push(`${request.method} ${request.url} ${request.headers.authorization ?? "no token"}`);
    const onward = connect((tls.address() as AddressInfo).port, "127.0.0.1", () => {
      socket.write("HTTP/1.1 200 Connection Established\r\n\r\n");
      onward.pipe(socket).pipe(onward);
    });
    for (const end of [socket, onward]) end.on("error", () => end.destroy());
  });
  proxy.listen(0, "127.0.0.1");
  await once(proxy, "listening");
  const before = { ...process.env };
  process.env.HTTPS_PROXY = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`;
  t.teardown(() => {
    process.env = before;
    for (const each of [tls, proxy]) {
      each.closeAllConnections();
      each.close();
    }
  });
  const caFile = join(t.testdir({ "ca.pem": pki.caPem, token: "hidden-token\n" }), "ca.pem");
  const url = new URL("https://localhost:8999/p.bundle?signature=hidden");
  const tokenFile = join(dirname(caFile), "token");
  t.same((await scene(t, { url, caFile, tokenFile, answer: () => {} })).told, ["offer by proxy"]);
  t.same(asked, ["CONNECT localhost:8999 no token"]);
});

t.test("nothing is told after closing, and a request under way is given up", async (t) => {
  let asked = (): void => {};
  const request = new Promise<void>((resolve) => (asked = resolve));
  const url = await serve(t, () => asked());
  const told: string[] = [];
  const source = new UrlSource({
    ...{ url, pollMs: 60_000, bytesMax: BYTES_MAX, tokenFile: undefined, caFile: undefined },
    monotonicMs: () => 0,
    clock: { now: () => 0, random: () => 0, sleep: async () => {} },
  });
  source.start({
    offer: async () => refused,
    confirmed: () => void told.push("confirmed"),
    failed: ({ message }) => void told.push(message),
  });
  await request;
  source.close();
  await source.check();
  t.same(told, []);
});
