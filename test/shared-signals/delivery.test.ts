import { generateKeyPairSync } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { decodeJwt, decodeProtectedHeader } from "jose";
import t from "tap";
import type { Principal } from "../../src/model/identity.ts";
import { createReceiver, type SharedSignalsReceiver } from "../../src/shared-signals/receiver.ts";
import {
  createTransmitter,
  type EmittedEvent,
  type SharedSignalsTransmitter,
} from "../../src/shared-signals/transmitter.ts";
import {
  type Clock,
  configOf,
  Deeds,
  type Handler,
  Place,
  scratch,
  sha256,
  surroundings,
  Told,
  until,
} from "./world.ts";

const MANAGE_TOKEN = "token-for-the-stream-management";
const PUSH_TOKEN = "token-for-the-push";
const AUDIENCE = "https://receiver.example";

type Test = { teardown(fn: () => unknown): void };

interface Sender {
  readonly place: Place;
  readonly told: Told;
  readonly clock: Clock;
  readonly folder: string;
  transmitter: SharedSignalsTransmitter;
  /** A new process in the place of the old one, which is killed: nothing more of it reaches anybody. */
  restart(): Promise<void>;
  call(path: string, method?: string, body?: unknown, token?: string): Promise<Response>;
}

/** A transmitter with one receiver, who may have events pushed to `pushUrl`. */
async function sender(t: Test, pushUrl: string, more = ""): Promise<Sender> {
  const folder = scratch(t);
  const place = await Place.open(t);
  const told = new Told();
  const clock = { ms: 1_700_000_000_000 };
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  writeFileSync(join(folder, "signing.pem"), privateKey.export({ type: "pkcs8", format: "pem" }));
  const { transmit } = configOf(`
transmit:
  issuer: ${place.url}
  keys: [signing.pem]
  timeout: 500ms
  retryMin: 10ms
  retryMax: 40ms
  longPoll: 20s
${more}
  receivers:
    - name: other
      tokenSha256: ["${sha256("token-of-another")}"]
      audience: [${AUDIENCE}]
      pushUrls: ["${pushUrl}"]
`);
  let config = transmit!;
  config = {
    ...config,
    receivers: [
      ...config.receivers,
      {
        ...config.receivers[0]!,
        name: "fleet",
        tokenHashes: [Buffer.from(sha256(MANAGE_TOKEN), "hex")],
        verifyEveryMinMs: 0,
      },
    ],
  };
  const killers: (() => void)[] = [];
  const make = async (): Promise<SharedSignalsTransmitter> => {
    const kill = new AbortController();
    killers.push(() => kill.abort());
    const transmitter = createTransmitter({
      config,
      configFolder: folder,
      surroundings: surroundings(told, {
        folder,
        clock,
        fetch: (url, init) => (kill.signal.aborted ? Promise.reject(new Error("killed")) : fetch(url as string, init)),
      }),
    });
    await transmitter.start();
    place.serve(transmitter);
    t.teardown(() => transmitter.close());
    return transmitter;
  };
  const self: Sender = {
    place,
    told,
    clock,
    folder,
    transmitter: await make(),
    restart: async () => {
      for (const kill of killers.splice(0)) kill();
      self.transmitter = await make();
    },
    call: (path, method = "GET", body = undefined, token = MANAGE_TOKEN) =>
      fetch(`${place.url}${path}`, {
        method,
        headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      }),
  };
  return self;
}

const billing: Principal = { kind: "spiffe", name: "spiffe://prod/billing" };
const revoked = (name: string, atMs = 1_700_000_000_000): EmittedEvent => ({
  kind: "session-revoked",
  principal: { kind: "spiffe", name: `spiffe://prod/${name}` },
  initiatedBy: "policy",
  reason: "stolen token",
  happenedAtMs: atMs,
});
const risk = (principal: Principal = billing): EmittedEvent => ({
  kind: "risk-level-change",
  principal,
  level: "HIGH",
  previousLevel: "LOW",
  reason: "credential moved",
  happenedAtMs: 1_700_000_000_000,
});

interface Hearer {
  readonly deeds: Deeds;
  readonly told: Told;
  receiver: SharedSignalsReceiver;
  restart(): Promise<void>;
}

/** A receiver that finds everything out from the transmitter's issuer, and sets its own stream up. */
async function hearer(t: Test, from: Sender, place: Place, how: "push" | "poll"): Promise<Hearer> {
  const folder = scratch(t);
  writeFileSync(join(folder, "manage.token"), `${MANAGE_TOKEN}\n`);
  writeFileSync(join(folder, "push.token"), `${PUSH_TOKEN}\n`);
  const { receive } = configOf(`
receive:
  - name: peer
    issuer: ${from.place.url}
    audiences: [${AUDIENCE}]
    ${
      how === "push"
        ? `push: { tokenSha256: ["${sha256(PUSH_TOKEN)}"] }
    manage: { tokenFile: manage.token, pushUrl: "${place.url}/ssf/receive/peer", pushTokenFile: push.token }`
        : `poll: { retryMin: 10ms, retryMax: 40ms }
    manage: { tokenFile: manage.token }`
    }
    scope: { principals: ["spiffe://prod/**"] }
`);
  const deeds = new Deeds();
  const told = new Told();
  const make = async (): Promise<SharedSignalsReceiver> => {
    const receiver = createReceiver({
      sources: receive,
      configFolder: folder,
      apply: deeds.apply,
      surroundings: surroundings(told, { folder, clock: from.clock }),
    });
    place.serve(receiver);
    await receiver.start();
    t.teardown(() => receiver.close());
    return receiver;
  };
  const self: Hearer = {
    deeds,
    told,
    receiver: await make(),
    restart: async () => {
      await self.receiver.close();
      self.receiver = await make();
    },
  };
  return self;
}

for (const how of ["push", "poll"] as const) {
  t.test(`by ${how}: a stream is set up, verified, and what one says the other does`, async (t) => {
    const place = await Place.open(t);
    const from = await sender(t, place.url);
    const to = await hearer(t, from, place, how);
    await until(() => to.receiver.status()[0]?.lastVerifiedAtMs !== undefined);
    t.match(from.transmitter.status(), [{ receiver: "fleet", method: how, status: "enabled" }]);

    const emitted = await from.transmitter.emit(revoked("billing"));
    t.same(emitted, { queued: 1, refused: [] });
    await to.deeds.until(1);
    t.match(to.deeds.all, [
      {
        kind: "lock",
        scope: { principal: "spiffe://prod/billing" },
        reason: "session-revoked by peer: stolen token",
        setBy: "shared-signals:peer",
        cause: { event: "session-revoked", issuer: from.place.url },
      },
    ]);
    await from.transmitter.emit(risk());
    await to.deeds.until(2);
    t.match(to.deeds.all[1], { kind: "posture", subject: "spiffe://prod/billing", facts: { risk_level: "HIGH" } });
    await until(() => from.transmitter.status()[0]?.undelivered === 0);
  });

  t.test(`by ${how}: nothing is lost or done twice when either side is killed in between`, async (t) => {
    const place = await Place.open(t);
    const from = await sender(t, place.url);
    const to = await hearer(t, from, place, how);
    await until(() => to.receiver.status()[0]?.lastVerifiedAtMs !== undefined);
    const names = Array.from({ length: 30 }, (_, index) => `w${index}`);
    for (const [index, name] of names.entries()) {
      await from.transmitter.emit(revoked(name));
      if (index % 10 === 3) await from.restart();
      if (index % 10 === 7) await to.restart();
    }
    await to.deeds.until(30);
    await until(() => from.transmitter.status()[0]?.undelivered === 0);
    const locked = to.deeds.all.map((action) => action.kind === "lock" && action.scope.principal);
    t.same(
      locked,
      names.map((name) => `spiffe://prod/${name}`),
      "in order, each once",
    );
    t.equal(from.transmitter.status().length, 1, "the stream of before was found again");
  });
}

t.test("an event is on disk before emit returns: a process killed then delivers it after its restart", async (t) => {
  const place = await Place.open(t);
  const from = await sender(t, place.url);
  const to = await hearer(t, from, place, "push");
  await until(() => to.receiver.status()[0]?.lastVerifiedAtMs !== undefined);
  const serve = place.handler;
  place.handler = (_, response) => response.writeHead(503).end();
  await from.transmitter.emit(revoked("billing"));
  await from.restart();
  t.equal(from.transmitter.status()[0]?.undelivered, 1);
  place.handler = serve;
  await to.deeds.until(1);
  t.match(to.deeds.all, [{ scope: { principal: "spiffe://prod/billing" } }]);
});

/** What a receiver may do wrong with the first pushes; then it takes them. */
const bad: readonly (readonly [name: string, handler: Handler])[] = [
  ["answers 500", (_, response) => response.writeHead(500).end()],
  ["answers 429", (_, response) => response.writeHead(429, { "retry-after": "0" }).end()],
  ["redirects to another place", (_, response) => response.writeHead(307, { location: "https://evil.example/" }).end()],
  ["never answers", () => {}],
  ["cuts the connection", (request) => request.socket.destroy()],
  [
    "refuses for a reason that may heal",
    (_, response) => response.writeHead(400, { "content-type": "application/json" }).end('{"err":"invalid_key"}'),
  ],
  ["answers nonsense", (_, response) => response.writeHead(400).end("<html>")],
];
for (const [name, handler] of bad) {
  t.test(
    `a receiver that ${name} is offered the same token again, in its turn, with its own authorization`,
    async (t) => {
      const place = await Place.open(t);
      const from = await sender(t, place.url);
      const seen: { readonly jti: unknown; readonly authorization: unknown; readonly type: unknown }[] = [];
      const created = await from.call("/ssf/stream", "POST", {
        delivery: {
          method: "urn:ietf:rfc:8935",
          endpoint_url: `${place.url}/in`,
          authorization_header: "Bearer theirs",
        },
      });
      t.equal(created.status, 201);
      place.handler = (request, response) => {
        let body = "";
        request.on("data", (chunk) => {
          body += chunk;
        });
        request.on("end", () => {
          const { authorization, "content-type": type } = request.headers;
          seen.push({ jti: decodeJwt(body).jti, authorization, type });
          if (seen.length <= 2) handler(request, response);
          else response.writeHead(202).end();
        });
      };
      await from.transmitter.emit(revoked("a"));
      await from.transmitter.emit(revoked("b"));
      await until(() => from.transmitter.status()[0]?.undelivered === 0);
      t.equal(seen.length, 4);
      t.equal(new Set(seen.slice(0, 3).map(({ jti }) => jti)).size, 1);
      t.not(seen[3]?.jti, seen[0]?.jti);
      t.same(new Set(seen.map(({ authorization }) => authorization)), new Set(["Bearer theirs"]));
      t.equal(seen[0]?.type, "application/secevent+jwt");
      t.ok(from.told.events().includes("shared_signals.delivery_failed"));
      t.notOk(JSON.stringify(from.told.logs).includes("theirs"));
    },
  );
}

t.test(
  "a token that its receiver refuses again and again is given up, loudly, and the next has its turn",
  async (t) => {
    const place = await Place.open(t);
    const from = await sender(t, place.url);
    await from.call("/ssf/stream", "POST", {
      delivery: { method: "urn:ietf:rfc:8935", endpoint_url: `${place.url}/in` },
    });
    let offers = 0;
    place.handler = (_, response) => {
      offers++;
      if (offers <= 5) response.writeHead(400).end('{"err":"invalid_audience","description":"not us"}');
      else response.writeHead(202).end();
    };
    await from.transmitter.emit(revoked("a"));
    await from.transmitter.emit(revoked("b"));
    await until(() => from.transmitter.status()[0]?.undelivered === 0);
    t.equal(offers, 6);
    t.match(
      from.told.logs.find(({ event }) => event === "shared_signals.undelivered"),
      {
        level: "error",
        fields: { receiver: "fleet", event: "session-revoked" },
        message: "refused: invalid_audience: not us",
      },
    );
    t.equal(from.told.counts.get("sent fleet given_up session-revoked"), 1);
  },
);

t.test("what nobody takes in time is given up, loudly", async (t) => {
  const from = await sender(t, "https://unused.example/", "  keep: 1h\n");
  await from.call("/ssf/stream", "POST", {});
  await from.transmitter.emit(revoked("a"));
  from.clock.ms += 3_600_001;
  await from.restart();
  t.equal(from.transmitter.status()[0]?.undelivered, 0);
  t.equal(from.told.counts.get("sent fleet given_up session-revoked"), 1);
});

interface Polled {
  readonly sets: Readonly<Record<string, string>>;
  readonly moreAvailable?: boolean;
}

t.test(
  "polling: tokens come again until they are acknowledged, one by one, and errors are told of (RFC 8936)",
  async (t) => {
    const from = await sender(t, "https://unused.example/");
    const created = (await (await from.call("/ssf/stream", "POST")).json()) as { delivery: { endpoint_url: string } };
    const path = new URL(created.delivery.endpoint_url).pathname;
    const poll = async (body: object): Promise<Polled> =>
      (await (await from.call(path, "POST", body)).json()) as Polled;
    for (const name of ["a", "b", "c"]) await from.transmitter.emit(revoked(name));

    const first = await poll({ maxEvents: 2, returnImmediately: true });
    const [one, two] = Object.keys(first.sets);
    t.equal(Object.keys(first.sets).length, 2);
    t.equal(first.moreAvailable, true);
    t.match(decodeProtectedHeader(first.sets[one!]!), { typ: "secevent+jwt", alg: "ES256" });
    t.match(decodeJwt(first.sets[one!]!), {
      iss: from.place.url,
      jti: one,
      aud: AUDIENCE,
      sub_id: { format: "uri", uri: "spiffe://prod/a" },
      events: {
        "https://schemas.openid.net/secevent/caep/event-type/session-revoked": {
          initiating_entity: "policy",
          reason_admin: { en: "stolen token" },
        },
      },
    });
    t.notOk("exp" in decodeJwt(first.sets[one!]!) || "sub" in decodeJwt(first.sets[one!]!));

    t.same(
      Object.keys((await poll({ maxEvents: 2, returnImmediately: true })).sets),
      [one, two],
      "unacknowledged: again",
    );
    const second = await poll({ ack: [two, "never-sent"], returnImmediately: true });
    t.ok(one! in second.sets && !(two! in second.sets));
    t.equal(Object.keys(second.sets).length, 2);
    t.equal(second.moreAvailable, undefined);
    await from.restart();
    const third = await poll({
      setErrs: { [one!]: { err: "invalid_key", description: "x" } },
      returnImmediately: true,
    });
    t.equal(Object.keys(third.sets).length, 1, "acknowledgements outlive a restart");
    t.match(
      from.told.logs.find(({ event }) => event === "shared_signals.undelivered"),
      { fields: { jti: one }, message: "refused: invalid_key" },
    );
    t.same(await poll({ ack: Object.keys(third.sets), maxEvents: 0 }), { sets: {} });
    t.equal(from.transmitter.status()[0]?.undelivered, 0);
  },
);

t.test("polling: a call that waits is answered by the next event, and of two that wait one is let go", async (t) => {
  const from = await sender(t, "https://unused.example/");
  const created = (await (await from.call("/ssf/stream", "POST")).json()) as { delivery: { endpoint_url: string } };
  const path = new URL(created.delivery.endpoint_url).pathname;
  const calls = [0, 1].map(async (which) => {
    const answer = (await (await from.call(path, "POST", {})).json()) as Polled;
    return { which, answer };
  });
  const released = await Promise.race(calls);
  t.same(released.answer, { sets: {} });
  await from.transmitter.emit(revoked("a"));
  const other = await calls[1 - released.which]!;
  t.equal(Object.keys(other.answer.sets).length, 1);
});

t.test("a full stream lets newer risk take the place of older, and never a revoked session silently", async (t) => {
  const from = await sender(t, "https://unused.example/", "  eventsMax: 10\n");
  await from.call("/ssf/stream", "POST");
  for (let i = 0; i < 4; i++) await from.transmitter.emit(risk({ kind: "spiffe", name: `spiffe://prod/r${i}` }));
  for (let i = 0; i < 6; i++) await from.transmitter.emit(revoked(`s${i}`));
  await from.transmitter.emit(risk({ kind: "spiffe", name: "spiffe://prod/r2" }));
  t.equal(from.told.counts.get("sent fleet superseded risk-level-change"), 1);
  await from.transmitter.emit(revoked("s6"));
  t.equal(from.told.counts.get("sent fleet dropped risk-level-change"), 1);
  for (let i = 7; i < 10; i++) await from.transmitter.emit(revoked(`s${i}`));
  t.equal(from.told.counts.get("sent fleet dropped risk-level-change"), 4);
  t.same(await from.transmitter.emit(revoked("s0")), { queued: 1, refused: [] }, "the same session once more");
  t.same(await from.transmitter.emit(revoked("s10")), { queued: 0, refused: ["fleet"] });
  t.same(await from.transmitter.emit(risk()), { queued: 0, refused: ["fleet"] });
  t.equal(from.transmitter.status()[0]?.undelivered, 10);
  t.equal(
    from.told.logs.filter(({ level, event }) => level === "error" && event === "shared_signals.overflow").length,
    2,
  );
  t.notOk([...from.told.counts.keys()].includes("sent fleet dropped session-revoked"));
});
