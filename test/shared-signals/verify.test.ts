import { generateKeyPairSync } from "node:crypto";
import fc from "fast-check";
import { UnsecuredJWT } from "jose";
import t from "tap";
import { SourceKeys } from "../../src/shared-signals/source-keys.ts";
import { verifySet } from "../../src/shared-signals/verify.ts";
import { AUDIENCE, claims, ecPair, IDP, ISSUED_AT, jwks, NOW_MS, Place, sign } from "./world.ts";

const wanted = {
  issuer: IDP,
  audiences: [AUDIENCE],
  algorithms: ["ES256", "RS256", "EdDSA"],
  nowMs: NOW_MS,
  clockToleranceMs: 60_000,
  maxAgeMs: 3_600_000,
};
const own = ecPair();
const other = ecPair();

function inline(text: string): SourceKeys {
  return new SourceKeys({ place: { kind: "inline", jwks: text }, fetch, now: () => NOW_MS, onError: () => {} });
}
const keys = inline(jwks(["one", own]));

t.test("a token that its transmitter signed is good", async (t) => {
  const token = await sign(claims(), own.privateKey);
  t.match(await verifySet(token, keys, wanted), { kind: "good", set: { jti: "one", issuer: IDP } });
});

const hmac = Buffer.from(own.publicKey.export({ type: "spki", format: "pem" }));
const bad: readonly (readonly [name: string, token: () => Promise<string> | string, err: string])[] = [
  ["a key of somebody else under the same name", () => sign(claims(), other.privateKey), "invalid_key"],
  ["a key that is not published", () => sign(claims(), other.privateKey, { kid: "two" }), "invalid_key"],
  ["a public key used as an HMAC secret", () => sign(claims(), hmac, { alg: "HS256" }), "invalid_key"],
  ["no signature at all", () => new UnsecuredJWT(claims()).encode(), "invalid_request"],
  ["another type of token", () => sign(claims(), own.privateKey, { typ: "at+jwt" }), "invalid_request"],
  ["no type", () => sign(claims(), own.privateKey, { typ: undefined }), "invalid_request"],
  ["another issuer", () => sign(claims({ iss: "https://evil.example" }), own.privateKey), "invalid_issuer"],
  ["another audience", () => sign(claims({ aud: "https://other.example" }), own.privateKey), "invalid_audience"],
  ["a clock that is 2 minutes ahead", () => sign(claims({ iat: ISSUED_AT + 120 }), own.privateKey), "invalid_request"],
  ["a payload that is no JSON", () => sign("hello", own.privateKey), "invalid_request"],
  ["a payload that is a list", () => sign([1], own.privateKey), "invalid_request"],
  ["an encrypted token", () => "a.b.c.d.e", "invalid_request"],
  ["no token", () => "", "invalid_request"],
  ["too long a token", () => `${"a".repeat(70_000)}.b.c`, "invalid_request"],
  [
    "another payload under the signature",
    async () => {
      const [head, , tail] = (await sign(claims(), own.privateKey)).split(".");
      return [head, Buffer.from(JSON.stringify(claims({ jti: "two" }))).toString("base64url"), tail].join(".");
    },
    "invalid_key",
  ],
];
for (const [name, make, err] of bad) {
  t.test(`${name} is refused with ${err}`, async (t) => {
    t.match(await verifySet(await make(), keys, wanted), { kind: "refused", fault: { err } });
  });
}

t.test("a key of another kind than the algorithm says is refused", async (t) => {
  const rsa = generateKeyPairSync("rsa", { modulusLength: 2_048 });
  const token = await sign(claims(), rsa.privateKey, { alg: "RS256" });
  t.match(await verifySet(token, keys, wanted), { kind: "refused", fault: { err: "invalid_key" } });
});

t.test("a token that names no key is tried with each that fits", async (t) => {
  const both = inline(jwks(["one", other], ["two", own]));
  t.match(await verifySet(await sign(claims(), own.privateKey, { kid: undefined }), both, wanted), { kind: "good" });
  const stranger = await sign(claims(), ecPair().privateKey, { kid: undefined });
  t.match(await verifySet(stranger, both, wanted), { kind: "refused", fault: { err: "invalid_key" } });
});

t.test("keys are fetched again for a new key, but not for each unknown one", async (t) => {
  const place = await Place.open(t);
  let published = jwks(["one", own]);
  let fetches = 0;
  place.handler = (_, response) => {
    fetches++;
    response.writeHead(200, { "content-type": "application/jwk-set+json" }).end(published);
  };
  let nowMs = NOW_MS;
  const fetched = new SourceKeys({
    place: { kind: "url", url: `${place.url}/jwks` },
    fetch,
    now: () => nowMs,
    onError: () => {},
  });
  t.teardown(() => fetched.close());
  t.match(await verifySet(await sign(claims(), own.privateKey), fetched, wanted), { kind: "good" });
  t.equal(fetches, 1);

  published = jwks(["one", own], ["two", other]);
  const rotated = await sign(claims(), other.privateKey, { kid: "two" });
  nowMs += 5_000;
  t.match(await verifySet(rotated, fetched, wanted), { kind: "not_now" }, "too soon to look again: nothing is decided");
  t.equal(fetches, 1);
  nowMs += 5_000;
  t.match(await verifySet(rotated, fetched, wanted), { kind: "good" });
  t.equal(fetches, 2);

  nowMs += 10_000;
  const unknown = await sign(claims(), ecPair().privateKey, { kid: "three" });
  t.match(await verifySet(unknown, fetched, wanted), { kind: "refused", fault: { err: "invalid_key" } });
  t.equal(fetches, 3);
});

t.test("while no keys could be fetched, tokens are neither taken nor refused", async (t) => {
  const place = await Place.open(t);
  const codes: string[] = [];
  const away = new SourceKeys({
    place: { kind: "url", url: `${place.url}/jwks` },
    fetch,
    now: () => NOW_MS,
    onError: ({ code }) => codes.push(code),
  });
  t.teardown(() => away.close());
  t.match(await verifySet(await sign(claims(), own.privateKey), away, wanted), { kind: "not_now" });
  t.same(codes, ["ERR_JWKS"]);
});

const broken: readonly (readonly [name: string, status: number, body: string, headers?: Record<string, string>])[] = [
  ["a redirect", 302, "", { location: "https://evil.example/jwks" }],
  ["HTML", 200, "<html>"],
  ["a private key", 200, JSON.stringify({ keys: [{ kty: "EC", d: "x" }] })],
  ["no keys", 200, JSON.stringify({ keys: [] })],
  ["two megabytes", 200, " ".repeat(2 * 1024 * 1024)],
];
for (const [name, status, body, headers] of broken) {
  t.test(`${name} instead of a key set leaves the last good keys in force`, async (t) => {
    const place = await Place.open(t);
    place.handler = (_, response) => response.writeHead(200).end(jwks(["one", own]));
    let nowMs = NOW_MS;
    const errors: string[] = [];
    const fetched = new SourceKeys({
      place: { kind: "url", url: `${place.url}/jwks` },
      fetch,
      now: () => nowMs,
      onError: ({ code }) => errors.push(code),
    });
    t.teardown(() => fetched.close());
    await fetched.get();
    place.handler = (_, response) => response.writeHead(status, headers).end(body);
    nowMs += 60_000;
    t.equal(await fetched.refetch(), false);
    t.same(errors, ["ERR_JWKS"]);
    t.match(await verifySet(await sign(claims(), own.privateKey), fetched, wanted), { kind: "good" });
  });
}

t.test("whatever text comes, verifying it does not throw, and refusals have a registered code", async (t) => {
  const registered = ["invalid_request", "invalid_key", "invalid_issuer", "invalid_audience"];
  const good = await sign(claims(), own.privateKey);
  const part = fc.oneof(
    fc.string(),
    fc.json().map((text) => Buffer.from(text).toString("base64url")),
    fc.constantFrom(...good.split(".")),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(part, { maxLength: 5 }), async (parts) => {
      const token = parts.join(".");
      const verified = await verifySet(token, keys, wanted);
      return verified.kind === "refused" ? registered.includes(verified.fault.err) : token === good;
    }),
    { numRuns: 500 },
  );
  t.pass();
});
