import { generateKeyPairSync, type KeyObject } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { decodeProtectedHeader } from "jose";
import t from "tap";
import { readSigningKey } from "../../src/shared-signals/signing-keys.ts";
import { configurationUrl, StreamClient } from "../../src/shared-signals/stream-client.ts";
import {
  createTransmitter,
  type EmittedEvent,
  type SharedSignalsTransmitter,
} from "../../src/shared-signals/transmitter.ts";
import { type Clock, configOf, Place, scratch, sha256, surroundings, Told } from "./world.ts";

const CAEP = "https://schemas.openid.net/secevent/caep/event-type/";

function pem(key: KeyObject): string {
  return key.export({ type: "pkcs8", format: "pem" }) as string;
}
const ec = generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey;
const ed = generateKeyPairSync("ed25519").privateKey;

interface World {
  readonly transmitter: SharedSignalsTransmitter;
  readonly place: Place;
  readonly folder: string;
  readonly clock: Clock;
  readonly told: Told;
  call(
    token: string | undefined,
    path: string,
    method?: string,
    body?: unknown,
  ): Promise<{ status: number; body: never }>;
}

async function world(t: { teardown(fn: () => unknown): void }, path = ""): Promise<World> {
  const folder = scratch(t);
  writeFileSync(join(folder, "one.pem"), pem(ec));
  writeFileSync(join(folder, "two.json"), JSON.stringify(ed.export({ format: "jwk" })));
  const place = await Place.open(t);
  const { transmit } = configOf(`
transmit:
  issuer: ${place.url}${path}
  keys: [one.pem, two.json]
  receivers:
    - name: a
      tokenSha256: ["${sha256("token-a")}", "${sha256("token-a-next")}"]
      audience: [https://a.example]
      pushUrls: ["https://a.example/in/"]
      verifyEveryMin: 30s
      streamsMax: 2
    - name: b
      tokenSha256: ["${sha256("token-b")}"]
      audience: [https://b.example/1, https://b.example/2]
      principals: ["spiffe://prod/shop/**"]
      defaultSubjects: none
`);
  const clock = { ms: 1_700_000_000_000 };
  const told = new Told();
  const transmitter = createTransmitter({
    config: transmit!,
    configFolder: folder,
    surroundings: surroundings(told, { folder, clock }),
  });
  await transmitter.start();
  t.teardown(() => transmitter.close());
  place.serve(transmitter);
  return {
    transmitter,
    place,
    folder,
    clock,
    told,
    call: async (token, target, method = "GET", body = undefined) => {
      const response = await fetch(`${place.url}${target}`, {
        method,
        ...(token === undefined ? {} : { headers: { authorization: `Bearer ${token}` } }),
        ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
      });
      const text = await response.text();
      return { status: response.status, body: (text === "" ? undefined : JSON.parse(text)) as never };
    },
  };
}

const revoked = (name: string): EmittedEvent => ({
  kind: "session-revoked",
  principal: { kind: "spiffe", name },
  initiatedBy: "admin",
  reason: "",
  happenedAtMs: 1_700_000_000_000,
});

const wellKnown: readonly (readonly [issuer: string, url: string])[] = [
  ["https://tr.example.com", "https://tr.example.com/.well-known/ssf-configuration"],
  ["https://tr.example.com/", "https://tr.example.com/.well-known/ssf-configuration"],
  ["https://tr.example.com/issuer1", "https://tr.example.com/.well-known/ssf-configuration/issuer1"],
  ["https://tr.example.com/issuer1/", "https://tr.example.com/.well-known/ssf-configuration/issuer1"],
];
for (const [issuer, url] of wellKnown) {
  t.test(`the configuration of ${issuer} is at ${url} (SSF 1.0, section 7.2.1)`, async (t) => {
    t.equal(configurationUrl(issuer), url);
  });
}

for (const path of ["", "/fleet/eu"]) {
  t.test(
    `an issuer ${path === "" ? "without" : "with"} a path says where everything is, and it is there`,
    async (t) => {
      const { place, call } = await world(t, path);
      const { status, body } = await call(undefined, `/.well-known/ssf-configuration${path}`);
      t.equal(status, 200);
      const base = `${place.url}${path}`;
      t.same(body, {
        spec_version: "1_0",
        issuer: base,
        jwks_uri: `${base}/ssf/jwks.json`,
        delivery_methods_supported: ["urn:ietf:rfc:8935", "urn:ietf:rfc:8936"],
        configuration_endpoint: `${base}/ssf/stream`,
        status_endpoint: `${base}/ssf/status`,
        add_subject_endpoint: `${base}/ssf/subjects:add`,
        remove_subject_endpoint: `${base}/ssf/subjects:remove`,
        verification_endpoint: `${base}/ssf/verify`,
        authorization_schemes: [{ spec_urn: "urn:ietf:rfc:6750" }],
      });
      t.equal((await call("token-a", `${path}/ssf/stream`)).status, 200);
    },
  );
}

t.test("all keys are published, none of them private, and the first signs", async (t) => {
  const { call, transmitter } = await world(t);
  const { body } = await call(undefined, "/ssf/jwks.json");
  const { keys } = body as { keys: readonly Record<string, string>[] };
  t.match(keys, [
    { kty: "EC", crv: "P-256", alg: "ES256", use: "sig" },
    { kty: "OKP", crv: "Ed25519", alg: "EdDSA", use: "sig" },
  ]);
  t.notOk(keys.some((key) => "d" in key));
  const { body: stream } = await call("token-a", "/ssf/stream", "POST");
  await transmitter.emit(revoked("spiffe://prod/a"));
  const id = (stream as { stream_id: string }).stream_id;
  const { body: polled } = await call("token-a", `/ssf/poll/${id}`, "POST", { returnImmediately: true });
  const [token] = Object.values((polled as { sets: Record<string, string> }).sets);
  t.match(decodeProtectedHeader(token!), { alg: "ES256", kid: keys[0]?.kid });
});

const signing: readonly (readonly [name: string, text: () => string, want: string])[] = [
  ["P-256 as PEM", () => pem(ec), "ES256"],
  ["Ed25519 as PEM", () => pem(ed), "EdDSA"],
  ["Ed25519 as JWK", () => JSON.stringify(ed.export({ format: "jwk" })), "EdDSA"],
  ["RSA of 2048 bits", () => pem(generateKeyPairSync("rsa", { modulusLength: 2_048 }).privateKey), "RS256"],
];
for (const [name, text, want] of signing) {
  t.test(`a signing key ${name} signs with ${want}`, async (t) => {
    t.equal((await readSigningKey(text(), "k")).alg, want);
  });
}
const notSigning: readonly (readonly [name: string, text: () => string])[] = [
  ["RSA of 1024 bits", () => pem(generateKeyPairSync("rsa", { modulusLength: 1_024 }).privateKey)],
  ["P-384", () => pem(generateKeyPairSync("ec", { namedCurve: "P-384" }).privateKey)],
  ["a public key", () => generateKeyPairSync("ed25519").publicKey.export({ type: "spki", format: "pem" }) as string],
  ["nonsense", () => "s3cr3t"],
  ["a JWK without its private part", () => JSON.stringify({ kty: "OKP", crv: "Ed25519", x: "s3cr3t" })],
];
for (const [name, text] of notSigning) {
  t.test(`a signing key that is ${name} is refused, and nothing of it repeated`, async (t) => {
    const error = await readSigningKey(text(), "k").then(
      () => undefined,
      (caught: Error & { code?: string }) => caught,
    );
    t.equal(error?.code, "ERR_KEY_INVALID");
    t.notOk(error?.message.includes("s3cr3t"));
  });
}

t.test(
  "without a receiver's token nothing is told; both of a receiver's tokens count while one is replaced",
  async (t) => {
    const { call } = await world(t);
    for (const token of [undefined, "token", "token-a ", "token-c"]) {
      t.equal((await call(token, "/ssf/stream")).status, token === "token-a " ? 200 : 401, String(token));
    }
    t.equal((await call("token-a-next", "/ssf/stream")).status, 200);
    t.equal((await call(undefined, "/ssf/poll/x", "POST")).status, 401);
  },
);

t.test("a stream is made, read, changed, replaced and deleted", async (t) => {
  const { call, place } = await world(t);
  const url = "https://a.example/in/1";
  const made = await call("token-a", "/ssf/stream", "POST", {
    delivery: { method: "urn:ietf:rfc:8935", endpoint_url: url, authorization_header: "Bearer x" },
    events_requested: [`${CAEP}session-revoked`, `${CAEP}credential-change`],
    description: "first",
  });
  t.equal(made.status, 201);
  const stream = made.body as Record<string, unknown>;
  const id = stream.stream_id as string;
  t.match(id, /^[0-9a-f]{32}$/);
  t.same(stream, {
    stream_id: id,
    iss: place.url,
    aud: "https://a.example",
    delivery: { method: "urn:ietf:rfc:8935", endpoint_url: url, authorization_header: "Bearer x" },
    events_supported: [`${CAEP}risk-level-change`, `${CAEP}session-revoked`],
    events_requested: [`${CAEP}session-revoked`, `${CAEP}credential-change`],
    events_delivered: [`${CAEP}session-revoked`],
    min_verification_interval: 30,
    description: "first",
  });
  t.same((await call("token-a", `/ssf/stream?stream_id=${id}`)).body, stream);
  t.same((await call("token-a", "/ssf/stream")).body, [stream]);

  const patched = await call("token-a", "/ssf/stream", "PATCH", { stream_id: id, description: "second" });
  t.same(patched.body, { ...stream, description: "second" });
  const put = await call("token-a", "/ssf/stream", "PUT", { stream_id: id, aud: "https://a.example" });
  t.same(put.body, {
    stream_id: id,
    iss: place.url,
    aud: "https://a.example",
    delivery: { method: "urn:ietf:rfc:8936", endpoint_url: `${place.url}/ssf/poll/${id}` },
    events_supported: stream.events_supported,
    events_delivered: stream.events_supported,
    min_verification_interval: 30,
  });
  t.equal((await call("token-a", `/ssf/stream?stream_id=${id}`, "DELETE")).status, 204);
  t.equal((await call("token-a", `/ssf/stream?stream_id=${id}`, "DELETE")).status, 404);
  t.same((await call("token-a", "/ssf/stream")).body, []);
});

t.test("a receiver has as many streams as it may, and 409 for the next", async (t) => {
  const { call } = await world(t);
  t.equal((await call("token-a", "/ssf/stream", "POST")).status, 201);
  t.equal((await call("token-a", "/ssf/stream", "POST")).status, 201);
  t.equal((await call("token-a", "/ssf/stream", "POST")).status, 409);
  t.equal((await call("token-b", "/ssf/stream", "POST")).status, 201);
});

t.test("another receiver's stream is as one that is not there", async (t) => {
  const { call } = await world(t);
  const { stream_id } = (await call("token-a", "/ssf/stream", "POST")).body as { stream_id: string };
  const subject = { format: "uri", uri: "spiffe://prod/a" };
  const foreign: readonly (readonly [path: string, method: string, body?: object])[] = [
    [`/ssf/stream?stream_id=${stream_id}`, "GET"],
    [`/ssf/stream?stream_id=${stream_id}`, "DELETE"],
    ["/ssf/stream", "PATCH", { stream_id }],
    ["/ssf/stream", "PUT", { stream_id }],
    [`/ssf/status?stream_id=${stream_id}`, "GET"],
    ["/ssf/status", "POST", { stream_id, status: "disabled" }],
    ["/ssf/subjects:add", "POST", { stream_id, subject }],
    ["/ssf/subjects:remove", "POST", { stream_id, subject }],
    ["/ssf/verify", "POST", { stream_id }],
    [`/ssf/poll/${stream_id}`, "POST", { returnImmediately: true }],
  ];
  for (const [path, method, body] of foreign)
    t.equal((await call("token-b", path, method, body)).status, 404, `${method} ${path}`);
  t.same((await call("token-b", "/ssf/stream")).body, []);
});

const badStreams: readonly (readonly [name: string, body: unknown])[] = [
  ["no JSON", "{"],
  ["a list", []],
  [
    "a push to a place that is not this receiver's",
    { delivery: { method: "urn:ietf:rfc:8935", endpoint_url: "https://b.example/in/" } },
  ],
  [
    "a push to a neighbouring path",
    { delivery: { method: "urn:ietf:rfc:8935", endpoint_url: "https://a.example/in/../admin" } },
  ],
  [
    "a push to a host that begins so",
    { delivery: { method: "urn:ietf:rfc:8935", endpoint_url: "https://a.example.evil/in/" } },
  ],
  [
    "a push to user information",
    { delivery: { method: "urn:ietf:rfc:8935", endpoint_url: "https://a.example@evil/in/" } },
  ],
  ["a push by plain http", { delivery: { method: "urn:ietf:rfc:8935", endpoint_url: "http://a.example/in/" } }],
  [
    "a header that would become two",
    {
      delivery: {
        method: "urn:ietf:rfc:8935",
        endpoint_url: "https://a.example/in/",
        authorization_header: "a\r\nb: c",
      },
    },
  ],
  ["an unknown method", { delivery: { method: "carrier pigeon" } }],
  [
    "a poll at a place of its own",
    { delivery: { method: "urn:ietf:rfc:8936", endpoint_url: "https://a.example/poll" } },
  ],
  ["events that are no list", { events_requested: "all" }],
  ["101 events", { events_requested: Array.from({ length: 101 }, (_, i) => `urn:${i}`) }],
  ["a description that is no text", { description: 7 }],
];
for (const [name, body] of badStreams) {
  t.test(`a stream with ${name} is refused with 400`, async (t) => {
    const { call } = await world(t);
    const answer = await call("token-a", "/ssf/stream", "POST", body);
    t.equal(answer.status, 400);
    t.match(answer.body, { err: "invalid_request", description: String });
    t.same((await call("token-a", "/ssf/stream")).body, []);
  });
}

t.test("what only the transmitter may say must be as it is", async (t) => {
  const { call } = await world(t);
  const { stream_id } = (await call("token-b", "/ssf/stream", "POST")).body as { stream_id: string };
  const patch = (more: object) => call("token-b", "/ssf/stream", "PATCH", { stream_id, ...more });
  t.equal((await patch({ aud: "https://evil.example" })).status, 400);
  t.equal((await patch({ iss: "https://evil.example" })).status, 400);
  t.equal((await patch({ events_delivered: [] })).status, 400);
  t.equal((await patch({ aud: ["https://b.example/2", "https://b.example/1"] })).status, 200);
  t.equal((await call("token-b", "/ssf/stream", "PATCH", {})).status, 400);
});

t.test("subjects: who gets whose events is what the receiver may hear, and asked for", async (t) => {
  const { call, transmitter } = await world(t);
  const a = ((await call("token-a", "/ssf/stream", "POST")).body as { stream_id: string }).stream_id;
  const b = ((await call("token-b", "/ssf/stream", "POST")).body as { stream_id: string }).stream_id;
  const held = (): readonly number[] =>
    [a, b].map((id) => transmitter.status().find((one) => one.id === id)!.undelivered);
  await transmitter.emit(revoked("spiffe://prod/shop/cart"));
  t.same(held(), [1, 0], "a stream of default NONE has nobody");
  const subject = { format: "uri", uri: "spiffe://prod/shop/cart" };
  t.equal((await call("token-b", "/ssf/subjects:add", "POST", { stream_id: b, subject })).status, 200);
  await transmitter.emit(revoked("spiffe://prod/shop/cart"));
  t.same(held(), [2, 1]);
  const outside = { format: "uri", uri: "spiffe://prod/bank" };
  t.equal((await call("token-b", "/ssf/subjects:add", "POST", { stream_id: b, subject: outside })).status, 200);
  await transmitter.emit(revoked("spiffe://prod/bank"));
  t.same(held(), [3, 1], "adding a subject gives no right to hear of it, and does not tell");
  t.equal((await call("token-a", "/ssf/subjects:remove", "POST", { stream_id: a, subject })).status, 204);
  await transmitter.emit(revoked("spiffe://prod/shop/cart"));
  t.same(held(), [3, 2]);
  t.equal(
    (await call("token-a", "/ssf/subjects:add", "POST", { stream_id: a, subject: { format: "iss_sub" } })).status,
    400,
  );
  const { queued } = await transmitter.emit({
    ...revoked(""),
    principal: { kind: "api_key", name: "api-key/x" },
  } as EmittedEvent);
  t.equal(queued, 0, "an API key's name means nothing to others");
});

t.test("a verification says the state that it was asked for with, and not too often", async (t) => {
  const { call, clock } = await world(t);
  const { stream_id } = (await call("token-a", "/ssf/stream", "POST")).body as { stream_id: string };
  t.equal((await call("token-a", "/ssf/verify", "POST", { stream_id, state: "s1" })).status, 204);
  t.equal((await call("token-a", "/ssf/verify", "POST", { stream_id })).status, 429);
  clock.ms += 30_000;
  t.equal((await call("token-a", "/ssf/verify", "POST", { stream_id, state: 7 })).status, 400);
  t.equal((await call("token-a", "/ssf/verify", "POST", { stream_id })).status, 204);
  const { body } = await call("token-a", `/ssf/poll/${stream_id}`, "POST", { returnImmediately: true });
  const tokens = Object.values((body as { sets: Record<string, string> }).sets);
  const told = tokens.map((token) => JSON.parse(Buffer.from(token.split(".")[1]!, "base64url").toString()));
  t.match(told, [
    {
      sub_id: { format: "opaque", id: stream_id },
      events: { "https://schemas.openid.net/secevent/ssf/event-type/verification": { state: "s1" } },
    },
    { events: { "https://schemas.openid.net/secevent/ssf/event-type/verification": {} } },
  ]);
});

t.test("status: what is set is told, unknown ones are refused", async (t) => {
  const { call } = await world(t);
  const { stream_id } = (await call("token-a", "/ssf/stream", "POST")).body as { stream_id: string };
  t.same((await call("token-a", `/ssf/status?stream_id=${stream_id}`)).body, { stream_id, status: "enabled" });
  const set = await call("token-a", "/ssf/status", "POST", { stream_id, status: "paused", reason: "maintenance" });
  t.same(set, { status: 200, body: { stream_id, status: "paused", reason: "maintenance" } });
  t.equal((await call("token-a", "/ssf/status", "POST", { stream_id, status: "asleep" })).status, 400);
  t.equal((await call("token-a", "/ssf/status")).status, 404);
});

t.test("a caller that calls without end is told to wait", async (t) => {
  const { call, clock } = await world(t);
  const statuses = new Set<number>();
  for (let i = 0; i < 101; i++) statuses.add((await call("token-a", "/ssf/stream")).status);
  t.same([...statuses], [200, 429]);
  t.equal((await call("token-b", "/ssf/stream")).status, 200, "others are not made to");
  clock.ms += 1_000;
  t.equal((await call("token-a", "/ssf/stream")).status, 200);
});

t.test("methods that a path does not know, and paths that are not ours", async (t) => {
  const { call } = await world(t);
  t.equal((await call("token-a", "/ssf/stream", "OPTIONS")).status, 405);
  t.equal((await call("token-a", "/ssf/verify")).status, 405);
  t.equal((await call(undefined, "/ssf/jwks.json", "POST")).status, 405);
  t.equal((await fetch(`${(await world(t)).place.url}/ssf/other`)).status, 404);
});

t.test("the client of streams speaks to all of it", async (t) => {
  const { place } = await world(t);
  const client = new StreamClient({
    issuer: place.url,
    fetch,
    now: () => 0,
    token: () => "token-a",
    signal: new AbortController().signal,
  });
  const wanted = { delivery: { method: "urn:ietf:rfc:8936" }, events_requested: [`${CAEP}session-revoked`] } as const;
  const made = await client.create(wanted);
  const id = made!.streamId;
  t.match(made, {
    method: "urn:ietf:rfc:8936",
    endpointUrl: `${place.url}/ssf/poll/${id}`,
    audiences: ["https://a.example"],
  });
  t.same(await client.read(id), made);
  t.same(await client.list(), [made]);
  t.match(await client.update(id, { events_requested: [] }), { eventsDelivered: [] });
  t.match(await client.replace(id, wanted), { eventsDelivered: [`${CAEP}session-revoked`] });
  await client.setStatus(id, "paused", "lunch");
  t.equal(await client.status(id), "paused");
  const subject = { format: "uri", uri: "spiffe://prod/a" };
  await client.addSubject(id, subject);
  await client.removeSubject(id, subject);
  t.equal(await client.verify(id, "x"), true);
  t.equal(await client.verify(id, "y"), false);
  t.equal(await client.delete(id), true);
  t.equal(await client.delete(id), false);
  t.equal(await client.read(id), undefined);
});

t.test("a configuration document of another issuer is not used", async (t) => {
  const place = await Place.open(t);
  place.handler = (_, response) => response.writeHead(200).end(JSON.stringify({ issuer: "https://evil.example" }));
  const client = new StreamClient({
    issuer: place.url,
    fetch,
    now: () => 0,
    token: () => "secret-token",
    signal: new AbortController().signal,
  });
  await t.rejects(client.discover(), { code: "ERR_CONTROL", message: /another issuer/ });
});
