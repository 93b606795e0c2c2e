/** Tests that the load generator tells answers apart: a benchmark that counts failures as answers measures nothing. */

import { once } from "node:events";
import { createServer, type ServerHttp2Stream } from "node:http2";
import type { AddressInfo } from "node:net";
import t from "tap";
import { H2Connection } from "./h2-connection.ts";

const REQUEST_ID = "8ea377f1-5cb7-4b6e-b2ec-000000000007";
/** CheckResponse: a status without a code, one of code 0, one of code 7. */
const OK = Buffer.from([0, 0, 0, 0, 2, 0x0a, 0]);
const CODE_0 = Buffer.from([0, 0, 0, 0, 4, 0x0a, 2, 0x08, 0]);
const CODE_7 = Buffer.from([0, 0, 0, 0, 4, 0x0a, 2, 0x08, 7]);

type Answer = (stream: ServerHttp2Stream) => void;

function message(bytes: Buffer, status: string): Answer {
  return (stream) => {
    stream.respond({ ":status": 200, "content-type": "application/grpc" }, { waitForTrailers: true });
    stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": status, "grpc-message": "" }));
    stream.end(bytes);
  };
}

const cases: readonly { readonly name: string; readonly answer: Answer; readonly want: string }[] = [
  { name: "a status without a code is leave to go on", answer: message(OK, "0"), want: "allowed" },
  { name: "so is code 0 written out", answer: message(CODE_0, "0"), want: "allowed" },
  { name: "another code is a refusal", answer: message(CODE_7, "0"), want: "refused" },
  { name: "a gRPC error after a message is a failure", answer: message(OK, "13"), want: "failed" },
  {
    name: "a gRPC error without a message is a failure",
    answer: (stream) => stream.respond({ ":status": 200, "grpc-status": "14" }, { endStream: true }),
    want: "failed",
  },
  { name: "a stream that is reset is a failure", answer: (stream) => stream.close(2), want: "failed" },
];

t.test("answers are told apart, however often a connection has said the same before", async (t) => {
  let answer: Answer = () => {};
  const bodies: Buffer[] = [];
  const server = createServer();
  server.on("stream", (stream: ServerHttp2Stream) => {
    const parts: Buffer[] = [];
    stream.on("error", () => {}); // a reset of our own
    stream.on("data", (part: Buffer) => parts.push(part));
    stream.on("end", () => {
      bodies.push(Buffer.concat(parts));
      answer(stream);
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.teardown(() => server.close());
  let heard: (outcome: string) => void = () => {};
  const address = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  const connection = await H2Connection.open(address, (_number, outcome) => heard(outcome));
  t.teardown(() => connection.close());
  const template = { bytes: Buffer.from(`ab${"-".repeat(REQUEST_ID.length)}yz`), requestIdAt: 2 };
  const ask = (number: number): Promise<string> =>
    new Promise((resolve) => {
      heard = resolve;
      connection.send(number, template, REQUEST_ID);
      connection.flush();
    });
  // Twice: what was a literal at first is an entry of the table then.
  for (const turn of [0, 1]) {
    for (const [i, one] of cases.entries()) {
      answer = one.answer;
      t.equal(await ask(turn * cases.length + i), one.want, one.name);
    }
  }
  t.same(new Set(bodies.map(String)), new Set([`ab${REQUEST_ID}yz`]), "every message bears its own request id");
});

t.test("more than the server's window waits for it, and all of it arrives", async (t) => {
  const server = createServer();
  server.on("stream", (stream: ServerHttp2Stream) => {
    stream.resume();
    stream.on("end", () => message(OK, "0")(stream));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.teardown(() => server.close());
  const checks = 200;
  let allowed = 0;
  const address = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  await new Promise<void>((resolve, reject) => {
    void H2Connection.open(address, (_number, outcome) => {
      if (outcome !== "allowed") reject(new Error(`expected allowed, got ${outcome}`));
      if (++allowed === checks) resolve();
    }).then((connection) => {
      t.teardown(() => connection.close());
      const template = { bytes: Buffer.alloc(2_000), requestIdAt: 100 };
      for (let i = 0; i < checks; i++) connection.send(i, template, REQUEST_ID);
      connection.flush();
    }, reject);
  });
  t.equal(allowed, checks);
});
