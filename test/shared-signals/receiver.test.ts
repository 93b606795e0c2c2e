import { writeFileSync } from "node:fs";
import { request as httpRequest } from "node:http";
import { join } from "node:path";
import fc from "fast-check";
import t from "tap";
import { createReceiver, type SharedSignalsReceiver } from "../../src/shared-signals/receiver.ts";
import {
  AUDIENCE,
  CAEP,
  type Clock,
  claims,
  configOf,
  Deeds,
  ecPair,
  IDP,
  ISSUED_AT,
  jwks,
  NOW_MS,
  Place,
  PUSH_TOKEN,
  scratch,
  sha256,
  sign,
  surroundings,
  Told,
} from "./world.ts";

const own = ecPair();
const KEYS = jwks(["one", own]);

interface World {
  readonly place: Place;
  readonly deeds: Deeds;
  readonly told: Told;
  readonly clock: Clock;
  readonly folder: string;
  receiver: SharedSignalsReceiver;
  restart(): Promise<void>;
  push(body: string | Uint8Array<ArrayBuffer>, headers?: Readonly<Record<string, string>>): Promise<Response>;
}

async function world(t: { teardown(fn: () => unknown): void }, more = ""): Promise<World> {
  const folder = scratch(t);
  const config = configOf(`
receive:
  - name: idp
    issuer: ${IDP}
    audiences: [${AUDIENCE}]
    keys: { inline: '${KEYS}' }
    push: { tokenSha256: ["${sha256(PUSH_TOKEN)}"], ratePerSecond: 100 }
${more}`);
  const place = await Place.open(t);
  const deeds = new Deeds();
  const told = new Told();
  const clock = { ms: NOW_MS };
  const make = async (): Promise<SharedSignalsReceiver> => {
    const receiver = createReceiver({
      sources: config.receive,
      configFolder: folder,
      apply: deeds.apply,
      surroundings: surroundings(told, { folder, clock }),
    });
    await receiver.start();
    place.serve(receiver);
    return receiver;
  };
  const self: World = {
    place,
    deeds,
    told,
    clock,
    folder,
    receiver: await make(),
    restart: async () => {
      // The old one is not closed: as a process that was killed.
      self.receiver = await make();
    },
    push: (body, headers = {}) =>
      fetch(`${place.url}/ssf/receive/idp`, {
        method: "POST",
        headers: { "content-type": "application/secevent+jwt", authorization: `Bearer ${PUSH_TOKEN}`, ...headers },
        body,
      }),
  };
  t.teardown(() => self.receiver.close());
  return self;
}

const risk = (jti: string, level: string, at: number): Record<string, unknown> =>
  claims({
    jti,
    events: { [`${CAEP}risk-level-change`]: { current_level: level, principal: "USER", event_timestamp: at } },
  });

t.test("a pushed token is acknowledged with 202 and an empty body, once its lock is set", async (t) => {
  const { push, deeds, told } = await world(t);
  const response = await push(await sign(claims(), own.privateKey));
  t.equal(response.status, 202);
  t.equal(await response.text(), "");
  t.match(deeds.all, [{ kind: "lock", scope: { principal: `${IDP}|billing` } }]);
  t.equal(told.counts.get("received idp applied"), 1);
  t.ok(told.events().includes("shared_signals.lock"));
});

t.test("a replay is acknowledged and does nothing, at once, later and after a restart", async (t) => {
  const { push, deeds, told, restart } = await world(t);
  const token = await sign(claims(), own.privateKey);
  const both = await Promise.all([push(token), push(token)]);
  t.same(
    both.map(({ status }) => status),
    [202, 202],
  );
  t.equal((await push(token)).status, 202);
  await restart();
  t.equal((await push(token)).status, 202);
  t.equal((await push(await sign(claims(), own.privateKey))).status, 202, "signed anew, the same jti");
  t.equal(deeds.all.length, 1);
  t.ok((told.counts.get("received idp duplicate") ?? 0) >= 3);
});

t.test("what could not be carried out is not acknowledged, and counts when it comes again", async (t) => {
  const { push, deeds } = await world(t);
  deeds.failures = 1;
  const token = await sign(claims(), own.privateKey);
  const first = await push(token);
  t.equal(first.status, 503);
  t.equal(first.headers.get("retry-after"), "5");
  t.equal((await push(token)).status, 202);
  t.equal(deeds.all.length, 1);
});

t.test("a malformed token does not spend its jti: the corrected one counts", async (t) => {
  const { push, deeds } = await world(t);
  const bad = claims({ events: { [`${CAEP}risk-level-change`]: {} } });
  t.equal((await push(await sign(bad, own.privateKey))).status, 400);
  t.equal((await push(await sign(claims(), own.privateKey))).status, 202);
  t.equal(deeds.all.length, 1);
});

const refused: readonly (readonly [
  name: string,
  body: () => Promise<string> | string,
  headers: Readonly<Record<string, string>>,
  status: number,
  err: string,
])[] = [
  ["no bearer token", () => sign(claims(), own.privateKey), { authorization: "" }, 401, "authentication_failed"],
  [
    "another bearer token",
    () => sign(claims(), own.privateKey),
    { authorization: "Bearer x" },
    401,
    "authentication_failed",
  ],
  [
    "another content type",
    () => sign(claims(), own.privateKey),
    { "content-type": "application/json" },
    415,
    "invalid_request",
  ],
  ["no token", () => "", {}, 400, "invalid_request"],
  ["100 KiB", () => "x".repeat(100 * 1024), {}, 413, "invalid_request"],
  ["a stranger's signature", () => sign(claims(), ecPair().privateKey), {}, 400, "invalid_key"],
  ["another issuer", () => sign(claims({ iss: "https://x.example" }), own.privateKey), {}, 400, "invalid_issuer"],
  ["another audience", () => sign(claims({ aud: "x" }), own.privateKey), {}, 400, "invalid_audience"],
  [
    "a verification that nobody asked for with this state",
    () =>
      sign(
        claims({
          sub_id: { format: "opaque", id: "stream" },
          events: { "https://schemas.openid.net/secevent/ssf/event-type/verification": { state: "x" } },
        }),
        own.privateKey,
      ),
    {},
    400,
    "invalid_state",
  ],
];
for (const [name, body, headers, status, err] of refused) {
  t.test(`${name} is answered with ${status} and ${err}`, async (t) => {
    const { push, deeds } = await world(t);
    const response = await push(await body(), headers);
    t.equal(response.status, status);
    t.equal(response.headers.get("content-type"), "application/json");
    t.equal(response.headers.get("content-language"), "en");
    const said = (await response.json()) as Record<string, string>;
    t.equal(said.err, err);
    t.type(said.description, "string");
    t.same(deeds.all, []);
  });
}

t.test("a body that is longer than it says ends with its connection, and the next is served", async (t) => {
  const { place, push } = await world(t);
  const status = await new Promise<number | string>((resolve) => {
    const request = httpRequest(
      `${place.url}/ssf/receive/idp`,
      {
        method: "POST",
        headers: { "content-type": "application/secevent+jwt", authorization: `Bearer ${PUSH_TOKEN}` },
      },
      (response) => resolve(response.statusCode ?? 0),
    );
    request.once("error", () => resolve("cut"));
    const more = (): void => {
      if (request.destroyed || request.writableEnded) return;
      request.write("x".repeat(16 * 1024), () => setImmediate(more));
    };
    more();
  });
  t.ok(status === 413 || status === "cut", String(status));
  t.equal((await push(await sign(claims(), own.privateKey))).status, 202);
});

t.test("paths that are not its own are left alone; unknown transmitters and methods are refused", async (t) => {
  const { place } = await world(t);
  t.equal((await fetch(`${place.url}/other`)).status, 404);
  t.equal((await fetch(`${place.url}/ssf/receive/nobody`, { method: "POST" })).status, 404);
  t.equal((await fetch(`${place.url}/ssf/receive/idp`)).status, 405);
});

t.test("more requests than the rate allows are told to come later, and then may", async (t) => {
  const { push, clock } = await world(t);
  const statuses: number[] = [];
  for (let i = 0; i < 1_001; i++) statuses.push((await push("x")).status);
  t.same(
    statuses.map((status, index) => (index < 1_000 ? status === 400 : status === 429)),
    statuses.map(() => true),
  );
  clock.ms += 10;
  t.equal((await push("x")).status, 400);
});

t.test("what was said later counts, whichever comes first", async (t) => {
  const { push, deeds, told, restart } = await world(t, "    events: { riskLevelChange: { lockFrom: high } }\n");
  await push(await sign(risk("b", "LOW", ISSUED_AT - 10), own.privateKey));
  await restart();
  await push(await sign(risk("a", "HIGH", ISSUED_AT - 20), own.privateKey));
  t.same(
    deeds.all.map(({ kind }) => kind),
    ["posture", "unlock"],
  );
  t.equal(told.counts.get("ignored idp out_of_order"), 2);
  await push(await sign(risk("c", "HIGH", ISSUED_AT - 5), own.privateKey));
  t.same(
    deeds.all.slice(2).map(({ kind }) => kind),
    ["posture", "lock"],
  );
});

t.test(
  "a transmitter cannot set more locks than it may: further ones wait, over restarts, until there is room",
  async (t) => {
    const { push, deeds, clock, restart } = await world(t, "    scope: { locksMax: 2 }\n");
    const of = (n: number): Promise<string> =>
      sign(claims({ jti: `n${n}`, sub_id: { format: "iss_sub", iss: IDP, sub: `s${n}` } }), own.privateKey);
    t.equal((await push(await of(1))).status, 202);
    t.equal((await push(await of(2))).status, 202);
    await restart();
    t.equal((await push(await of(3))).status, 503);
    const again = await sign(claims({ jti: "n4", sub_id: { format: "iss_sub", iss: IDP, sub: "s1" } }), own.privateKey);
    t.equal((await push(again)).status, 202, "the same lock once more is not one more");
    clock.ms += 16 * 60_000;
    t.equal((await push(await of(3))).status, 202);
    t.equal(deeds.all.length, 4);
  },
);

t.test("a closed receiver takes nothing, and what was acknowledged before is remembered by the next", async (t) => {
  const { push, receiver, restart, deeds } = await world(t);
  const token = await sign(claims(), own.privateKey);
  await push(token);
  await receiver.close();
  t.equal((await push(await sign(claims({ jti: "two" }), own.privateKey))).status, 404);
  await restart();
  t.equal((await push(token)).status, 202);
  t.equal(deeds.all.length, 1);
});

t.test("damaged memory is told of and does not stop the start", async (t) => {
  const { push, folder, restart, told } = await world(t);
  await push(await sign(claims(), own.privateKey));
  writeFileSync(join(folder, "received-idp.journal"), "nonsense");
  await restart();
  t.ok(told.events().includes("shared_signals.state_damaged"));
  t.equal((await push(await sign(claims({ jti: "two" }), own.privateKey))).status, 202);
});

t.test("neither logs nor counts hold tokens", async (t) => {
  const { push, told } = await world(t);
  const token = await sign(claims(), own.privateKey);
  await push(token);
  await push(token, { authorization: "Bearer wrong-secret" });
  await push(await sign(claims({ jti: "two" }), ecPair().privateKey));
  const all = JSON.stringify([told.logs, [...told.counts]]);
  for (const secret of [token, token.split(".")[2]!, PUSH_TOKEN, "wrong-secret"]) t.notOk(all.includes(secret));
});

t.test("files that are missing or hold no token stop the start", async (t) => {
  const folder = scratch(t);
  const { receive } = configOf(`
receive:
  - name: idp
    issuer: ${IDP}
    audiences: [x]
    keys: { file: keys.json }
    poll: { endpoint: "https://idp.example.com/poll", tokenFile: token }
`);
  const make = (): SharedSignalsReceiver =>
    createReceiver({
      sources: receive,
      configFolder: folder,
      apply: async () => {},
      surroundings: surroundings(new Told()),
    });
  await t.rejects(make().start(), { code: "ERR_CONFIG_INVALID", message: /keys\.json/ });
  writeFileSync(join(folder, "keys.json"), "{}");
  await t.rejects(make().start(), { code: "ERR_CONFIG_INVALID", message: /keys\.json: expected a JSON Web Key Set/ });
  writeFileSync(join(folder, "keys.json"), KEYS);
  await t.rejects(make().start(), { code: "ERR_CONFIG_INVALID", message: /token/ });
});

t.test("whatever is pushed, the answer is one of RFC 8935", async (t) => {
  const { push } = await world(t);
  const good = await sign(claims(), own.privateKey);
  const registered = ["invalid_request", "invalid_key", "invalid_issuer", "invalid_audience"];
  await fc.assert(
    fc.asyncProperty(
      fc.oneof(
        fc.uint8Array({ maxLength: 200 }),
        fc.string().map((text) => new TextEncoder().encode(text)),
        fc.nat(good.length - 1).map((at) => new TextEncoder().encode(`${good.slice(0, at)}${good.slice(at + 1)}`)),
      ),
      async (body) => {
        const response = await push(body);
        if (response.status === 202) return false;
        const said = (await response.json()) as { err: string };
        return response.status === 400 && registered.includes(said.err);
      },
    ),
    { numRuns: 200 },
  );
  t.pass();
});
