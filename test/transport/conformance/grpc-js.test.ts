import { Client, type ClientUnaryCall, credentials, Metadata, type ServiceError, status } from "@grpc/grpc-js";
import t from "tap";
import { checkBytes } from "../../support/check-client.ts";
import { CHECK_PATH, serve, transports } from "./served.ts";

const MESSAGE_BYTES_MAX = 4 * 1024 * 1024;
const GZIP = 2;
const raw = (bytes: Buffer): Buffer => bytes;

interface Told {
  /** gRPC status. */
  readonly code: number;
  readonly answerBytes: number;
}

interface Call {
  readonly path?: string;
  readonly bytes?: Uint8Array;
  readonly metadata?: Metadata;
  readonly deadline?: Date;
  readonly begun?: (call: ClientUnaryCall) => void;
}

function connect(address: string, options: Readonly<Record<string, number>> = {}) {
  const client = new Client(address, credentials.createInsecure(), {
    "grpc.use_local_subchannel_pool": 1,
    "grpc.max_send_message_length": -1,
    ...options,
  });
  const call = ({ path = CHECK_PATH, bytes = checkBytes(), metadata, deadline, begun }: Call = {}): Promise<Told> =>
    new Promise((resolve) => {
      const unary = client.makeUnaryRequest(
        path,
        raw,
        raw,
        Buffer.from(bytes),
        metadata ?? new Metadata(),
        deadline === undefined ? {} : { deadline },
        (error: ServiceError | null, answer?: Buffer) =>
          resolve({ code: error?.code ?? status.OK, answerBytes: answer?.length ?? 0 }),
      );
      begun?.(unary);
    });
  return { call, close: () => client.close() };
}

for (const transport of await transports()) {
  t.test(`${transport}: grpc-js is answered as gRPC's interoperability cases want it`, async (t) => {
    const sidecar = await serve(t, transport);
    const one = connect(sidecar.extAuthz);
    t.teardown(() => one.close());

    t.test("an empty message is one", async (t) => {
      const told = await one.call({ bytes: new Uint8Array() });
      t.equal(told.code, status.OK);
      t.ok(told.answerBytes > 0);
    });
    t.test("large messages are read up to the limit and refused beyond it", async (t) => {
      const sized = (bytes: number): Uint8Array => checkBytes({ headers: { "x-large": "x".repeat(bytes) } });
      t.equal((await one.call({ bytes: sized(1024 * 1024) })).code, status.OK);
      t.equal((await one.call({ bytes: sized(MESSAGE_BYTES_MAX - 4_096) })).code, status.OK);
      t.equal((await one.call({ bytes: sized(MESSAGE_BYTES_MAX) })).code, status.RESOURCE_EXHAUSTED);
      t.equal((await one.call()).code, status.OK, "and the connection is as good as before");
    });
    t.test("methods and services that are none are UNIMPLEMENTED, whatever their path holds", async (t) => {
      for (const path of [
        `${CHECK_PATH}er`,
        "/grpc.testing.UnimplementedService/UnimplementedCall",
        "/",
        "/a%0d%0ab",
      ]) {
        t.equal((await one.call({ path })).code, status.UNIMPLEMENTED, path);
      }
    });
    t.test("metadata of the caller's own changes nothing", async (t) => {
      const metadata = new Metadata();
      metadata.add("x-grpc-test-echo-initial", "test_initial_metadata_value");
      metadata.add("x-grpc-test-echo-trailing-bin", Buffer.from([0xab, 0xab, 0xab]));
      for (let i = 0; i < 50; i++) metadata.add("x-many", `value ${i}`);
      t.equal((await one.call({ metadata })).code, status.OK);
    });
    t.test("a packed message is unpacked or UNIMPLEMENTED, never taken for what it is not", async (t) => {
      const packing = connect(sidecar.extAuthz, { "grpc.default_compression_algorithm": GZIP });
      t.teardown(() => packing.close());
      const { code } = await packing.call({ bytes: checkBytes({ path: `/${"x".repeat(10_000)}` }) });
      t.ok(code === status.OK || code === status.UNIMPLEMENTED, String(code));
    });
    t.test("a deadline in the past is DEADLINE_EXCEEDED", async (t) => {
      t.equal((await one.call({ deadline: new Date(0) })).code, status.DEADLINE_EXCEEDED);
    });
    t.test("calls cancelled at once are CANCELLED, and their neighbours are answered", async (t) => {
      const told = await Promise.all(
        Array.from({ length: 500 }, (_, n) =>
          one.call(n % 2 === 0 ? {} : { begun: (call) => process.nextTick(() => call.cancel()) }),
        ),
      );
      t.same([...new Set(told.filter((_, n) => n % 2 === 0).map(({ code }) => code))], [status.OK]);
      t.same([...new Set(told.filter((_, n) => n % 2 === 1).map(({ code }) => code))], [status.CANCELLED]);
    });
    t.test("a thousand calls at once on one connection are all answered", async (t) => {
      const told = await Promise.all(Array.from({ length: 1_000 }, () => one.call()));
      t.equal(told.filter(({ code }) => code === status.OK).length, 1_000);
    });
    t.test("fifty connections are served side by side", async (t) => {
      const clients = Array.from({ length: 50 }, () => connect(sidecar.extAuthz));
      const told = await Promise.all(clients.flatMap(({ call }) => Array.from({ length: 10 }, () => call())));
      for (const client of clients) client.close();
      t.equal(told.filter(({ code }) => code === status.OK).length, 500);
    });
  });
}
