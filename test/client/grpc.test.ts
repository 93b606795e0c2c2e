import { type Client, credentials, Metadata, makeGenericClientConstructor } from "@grpc/grpc-js";
import t, { type Test } from "tap";
import { type InterceptorSettings, sallyportInterceptor } from "../../src/client/client.ts";
import { challengingGrpc, createGuard, type Demand, ECHO } from "../support/challenging-server.ts";
import { testKey } from "../support/proofs.ts";

const key = testKey("ES256");

interface Echo extends Client {
  Unary(request: string, callback: (error: Error | null, reply?: string) => void): { cancel(): void };
  Down(request: string): AsyncIterable<string> & NodeJS.EventEmitter;
  Both(): AsyncIterable<string> &
    NodeJS.EventEmitter & { write(message: string): boolean; end(): void; cancel(): void };
}

async function setUp(t: Test, demand: Demand, changes: Partial<InterceptorSettings> = {}) {
  const guard = createGuard(demand, key.jwk);
  const server = await challengingGrpc(guard);
  let issued = 0;
  const interceptor = sallyportInterceptor({
    origin: server.origin,
    key: key.privateKey,
    getToken: ({ fresh }) => {
      if (!fresh) return "kept-token";
      const token = `fresh-${++issued}`;
      guard.freshTokens.add(token);
      return token;
    },
    ...changes,
  });
  const Constructor = makeGenericClientConstructor(ECHO, "Echo");
  const client = new Constructor(server.address, credentials.createInsecure(), {
    interceptors: [interceptor],
  }) as unknown as Echo;
  t.teardown(() => {
    client.close();
    server.close();
  });
  const unary = (request: string) =>
    new Promise<string | undefined>((resolve, reject) =>
      client.Unary(request, (error, reply) => (error === null ? resolve(reply) : reject(error))),
    );
  return { guard, client, unary };
}

async function collect(messages: AsyncIterable<string>): Promise<string[]> {
  const all: string[] = [];
  for await (const message of messages) all.push(message);
  return all;
}

for (const demand of ["none", "dpop", "signature", "step_up", "dpop_then_step_up"] as const) {
  t.test(`a unary call answers by itself: ${demand}`, async (t) => {
    const { unary, guard } = await setUp(t, demand);
    t.equal(await unary("hello"), "hello");
    t.equal(guard.outcomes.at(-1), "passed");
  });

  t.test(`a server's stream starts by itself: ${demand}`, async (t) => {
    const { client } = await setUp(t, demand);
    t.same(await collect(client.Down("a b c")), ["a", "b", "c"]);
  });

  t.test(`a stream both ways starts by itself, and nothing sent is lost or doubled: ${demand}`, async (t) => {
    const { client } = await setUp(t, demand);
    const call = client.Both();
    for (let index = 0; index < 20; index++) call.write(`${index}`);
    call.end();
    t.same(
      await collect(call),
      Array.from({ length: 20 }, (_, index) => `${index}`),
    );
  });
}

t.test("the nonce of a challenge serves the calls after it", async (t) => {
  const { unary, guard } = await setUp(t, "dpop");
  await unary("one");
  await unary("two");
  t.equal(guard.outcomes.length, 3);
});

t.test("a service that is never content is asked three times and no more", async (t) => {
  const { unary, guard } = await setUp(t, "never");
  await t.rejects(unary("x"), { code: 16 });
  t.ok(guard.outcomes.length <= 3, `${guard.outcomes.length} calls`);
});

t.test("a call without an answer to give fails as it was refused", async (t) => {
  const { unary } = await setUp(t, "dpop", { key: testKey("ES256").privateKey });
  await t.rejects(unary("x"), { code: 16, details: "refused" });
});

t.test("a token that cannot be had fails the call, and says so", async (t) => {
  const { unary, client } = await setUp(t, "none", {
    getToken: () => {
      throw new Error("no token today");
    },
  });
  await t.rejects(unary("x"), { code: 16, details: /no token today/ });
  await t.rejects(collect(client.Down("x")), { code: 16 });
});

t.test("a call that is given up while its token is fetched is over at once", async (t) => {
  let release = (): void => {};
  const held = new Promise<string>((resolve) => {
    release = () => resolve("late");
  });
  const { client, guard } = await setUp(t, "none", { getToken: () => held });
  const failed = new Promise<Error | null>((resolve) => {
    client.Unary("x", (error) => resolve(error)).cancel();
  });
  t.match(await failed, { code: 1 });
  release();
  await held;
  t.same(guard.outcomes, []);
});

t.test("the application's own metadata goes along", async (t) => {
  const { client } = await setUp(t, "none");
  const metadata = new Metadata();
  metadata.set("x-own", "1");
  const reply = await new Promise((resolve, reject) =>
    (client.Unary as unknown as (...all: unknown[]) => void)("hi", metadata, (error: Error | null, value: string) =>
      error === null ? resolve(value) : reject(error),
    ),
  );
  t.equal(reply, "hi");
});
