import { exportJWK, generateKeyPair, type JSONWebKeySet, SignJWT } from "jose";
import t from "tap";
import { KeySets } from "../../src/envoy/key-sets.ts";
import { Tokens } from "../../src/envoy/tokens.ts";
import type { TokenFacts } from "../../src/model/identity.ts";
import type { IssuerPolicy } from "../../src/model/policy.ts";

const ISSUER = "https://issuer.example";
const NOON_MS = Date.parse("2026-03-02T12:00:00Z");
const SECOND = 1_000;

async function keyPair(kid?: string) {
  const { publicKey, privateKey } = await generateKeyPair("ES256");
  return {
    jwk: { ...(await exportJWK(publicKey)), ...(kid === undefined ? {} : { kid }), alg: "ES256" },
    privateKey,
    kid,
  };
}
type Pair = Awaited<ReturnType<typeof keyPair>>;

const first = await keyPair("first");
const second = await keyPair("second");

interface Claims {
  readonly [claim: string]: unknown;
}

function sign(
  pair: Pair,
  claims: Claims = {},
  header: { kid?: string | undefined } = { kid: pair.kid },
): Promise<string> {
  const iat = NOON_MS / SECOND - 60;
  const { kid } = header;
  return new SignJWT({ iss: ISSUER, sub: "billing", aud: "sallyport", iat, exp: iat + 360, jti: "j-1", ...claims })
    .setProtectedHeader({ alg: "ES256", ...(kid === undefined ? {} : { kid }) })
    .sign(pair.privateKey);
}

function issuerWith(pairs: readonly Pair[], changes: Partial<IssuerPolicy> = {}): IssuerPolicy {
  return {
    issuer: ISSUER,
    audiences: ["sallyport"],
    jwks: { kind: "inline", keys: JSON.stringify({ keys: pairs.map(({ jwk }) => jwk) }) },
    algorithms: ["ES256"],
    clockToleranceMs: 30 * SECOND,
    ...changes,
  };
}

const byUrl = (url = "https://issuer.example/jwks.json"): IssuerPolicy =>
  issuerWith([], { jwks: { kind: "url", url } });

/** A key server that publishes what it is told, and counts. */
function keyServer(initial: JSONWebKeySet) {
  const server = {
    keys: initial as JSONWebKeySet | Error,
    fetches: 0,
    fetch: (async () => {
      server.fetches++;
      if (server.keys instanceof Error) throw server.keys;
      return new Response(JSON.stringify(server.keys));
    }) as typeof fetch,
  };
  return server;
}

function create(server = keyServer({ keys: [first.jwk] })) {
  const clock = { nowMs: NOON_MS };
  const now = (): number => clock.nowMs;
  const problems: string[] = [];
  const keySets = new KeySets({ now, onError: ({ message }) => problems.push(message), fetch: server.fetch });
  const tokens = new Tokens({ key: new Uint8Array(32), keySets, now });
  const read = async (bearer: string, issuer: IssuerPolicy | readonly IssuerPolicy[]): Promise<TokenFacts> =>
    await tokens.read(bearer, [issuer].flat() as IssuerPolicy[]);
  return { clock, keySets, tokens, read, problems, server };
}

t.test("a good token names issuer, subject and times", async (t) => {
  const { read } = create();
  const token = await sign(first, { acr: "gold", cnf: { "x5t#S256": "thumb" }, act: { sub: "edge" } });
  t.match(await read(token, issuerWith([first])), {
    kind: "verified",
    issuer: ISSUER,
    subject: "billing",
    issuedAt: NOON_MS - 60 * SECOND,
    expiresAt: NOON_MS + 300 * SECOND,
    acr: "gold",
    boundCertificate: "thumb",
    actors: ["edge"],
    hasJti: true,
    id: /^token:[0-9a-f]{16}$/,
  });
});

const [head = "", body = "", signature = ""] = (await sign(first)).split(".");
const reversed = [...signature].reverse().join("");
const none = `${Buffer.from('{"alg":"none"}').toString("base64url")}.${body}.`;
const symmetric = await new SignJWT({ iss: ISSUER, sub: "billing" })
  .setProtectedHeader({ alg: "HS256" })
  .sign(new TextEncoder().encode(JSON.stringify(first.jwk)));
const refused: { name: string; token: string; why: RegExp; forged: boolean }[] = [
  { name: "a false signature", token: `${head}.${body}.${reversed}`, why: /signature does not verify/, forged: true },
  {
    name: "a changed claim",
    token: `${head}.${Buffer.from(JSON.stringify({ iss: ISSUER, sub: "admin" })).toString("base64url")}.${signature}`,
    why: /does not verify/,
    forged: true,
  },
  { name: "the algorithm none", token: none, why: /algorithm not allowed/, forged: true },
  { name: "the public key as a shared secret", token: symmetric, why: /algorithm not allowed/, forged: true },
  {
    name: "another issuer",
    token: await sign(first, { iss: "https://other" }),
    why: /issuer that the policy does not name/,
    forged: false,
  },
  {
    name: "another audience",
    token: await sign(first, { aud: "other" }),
    why: /claim aud not accepted/,
    forged: false,
  },
  {
    name: "an end that is past",
    token: await sign(first, { exp: NOON_MS / SECOND - 31 }),
    why: /past its end/,
    forged: false,
  },
  {
    name: "a beginning that is to come",
    token: await sign(first, { nbf: NOON_MS / SECOND + 31 }),
    why: /claim nbf not accepted/,
    forged: false,
  },
  { name: "an unknown key", token: await sign(second), why: /key that the issuer does not publish/, forged: false },
  { name: "no subject", token: await sign(first, { sub: undefined }), why: /without subject/, forged: false },
  { name: "text that is no JWT", token: "opaque", why: /not a JWT/, forged: false },
  { name: "three parts of nothing", token: "..", why: /not a JWT/, forged: false },
  { name: "an encrypted token", token: "a.b.c.d.e", why: /not a JWT/, forged: false },
  { name: "16 KiB and one character", token: "x".repeat(16_385), why: /longer than 16384 characters/, forged: false },
];
for (const { name, token, why, forged } of refused) {
  t.test(`${name} names nobody${forged ? " and is forged" : ""}`, async (t) => {
    const { read } = create();
    const facts = await read(token, issuerWith([first]));
    t.match(facts, { kind: "unverified", why, forged, id: /^token:[0-9a-f]{16}$/ });
    t.notOk(JSON.stringify(facts).includes(token.slice(0, 200)), "and the token is not repeated");
  });
}

t.test("clocks may differ by what the policy allows", async (t) => {
  const { read } = create();
  t.match(await read(await sign(first, { exp: NOON_MS / SECOND - 29 }), issuerWith([first])), { kind: "verified" });
  t.match(await read(await sign(first, { nbf: NOON_MS / SECOND + 29 }), issuerWith([first])), { kind: "verified" });
});

t.test("without issuers nothing can be checked, and nothing is forged", async (t) => {
  const { read } = create();
  t.match(await read(await sign(first), []), { kind: "unverified", why: /names no issuer/, forged: false });
});

t.test("a token that names no key is tried with each that fits", async (t) => {
  const nameless = [await keyPair(), await keyPair(), await keyPair()] as const;
  const { read } = create();
  const issuer = issuerWith(nameless);
  for (const pair of nameless) t.match(await read(await sign(pair), issuer), { kind: "verified" });
  t.match(await read(await sign(first, {}, {}), issuer), { kind: "unverified", forged: true });
  const many = await Promise.all(Array.from({ length: 9 }, () => keyPair()));
  t.match(await read(await sign(many[7]!), issuerWith(many)), { kind: "verified" }, "the eighth is still tried");
  t.match(
    await read(await sign(many[8]!), issuerWith(many)),
    { kind: "unverified", forged: false },
    "the ninth is not",
  );
});

t.test("two tokens of one jti are one credential, an unverified one never takes its name", async (t) => {
  const { read } = create();
  const issuer = issuerWith([first]);
  const one = await read(await sign(first), issuer);
  const two = await read(await sign(first, { exp: NOON_MS / SECOND + 900 }), issuer);
  const forged = await read(await sign({ ...second, kid: "first" }), issuer);
  t.match([one, two, forged], [{ kind: "verified" }, { kind: "verified" }, { kind: "unverified" }]);
  const ids = [one, two, forged].map((facts) => ("id" in facts ? facts.id : ""));
  t.equal(ids[0], ids[1]);
  t.not(ids[0], ids[2]);
});

t.test("a verified token is answered at once, for five minutes or until it ends", async (t) => {
  const { clock, tokens } = create();
  const token = await sign(first);
  const issuers = [issuerWith([first])];
  t.ok(tokens.read(token, issuers) instanceof Promise);
  await tokens.read(token, issuers);
  t.notOk(tokens.read(token, issuers) instanceof Promise, "remembered");
  clock.nowMs += 300 * SECOND - 1;
  t.notOk(tokens.read(token, issuers) instanceof Promise, "until the end");
  clock.nowMs += 1;
  t.ok(tokens.read(token, issuers) instanceof Promise, "not beyond");
  t.match(await tokens.read(token, issuers), { kind: "verified" }, "within the clock tolerance");
  clock.nowMs += 31 * SECOND;
  t.match(await tokens.read(token, issuers), { kind: "unverified", why: /past its end/ });
});

t.test("a refused token costs one verification in five seconds", async (t) => {
  const { clock, tokens } = create();
  const token = await sign(second);
  const issuers = [issuerWith([first])];
  await tokens.read(token, issuers);
  clock.nowMs += 4_999;
  t.notOk(tokens.read(token, issuers) instanceof Promise);
  clock.nowMs += 1;
  t.ok(tokens.read(token, issuers) instanceof Promise);
});

t.test("after a policy change nothing is taken from memory", async (t) => {
  const { tokens } = create();
  const token = await sign(first);
  await tokens.read(token, [issuerWith([first])]);
  tokens.forget();
  t.match(await tokens.read(token, [issuerWith([second])]), { kind: "unverified" });
});

t.test(
  "a key that the issuer publishes later is found, but asked for no more often than every ten seconds",
  async (t) => {
    const { clock, keySets, read, server } = create();
    await keySets.refresh([byUrl()]);
    t.equal(server.fetches, 1);
    t.match(await read(await sign(first), byUrl()), { kind: "verified" });
    const rotated = await sign(second, { jti: "j-2" });
    server.keys = { keys: [first.jwk, second.jwk] };
    clock.nowMs += 9_999;
    t.match(await read(rotated, byUrl()), { kind: "unverified" });
    t.equal(server.fetches, 1);
    clock.nowMs += 5_001;
    t.match(await read(rotated, byUrl()), { kind: "verified" });
    t.equal(server.fetches, 2);
  },
);

t.test("tokens before the first keys wait for them; many at a time fetch once", async (t) => {
  const { read, server } = create();
  const tokens = await Promise.all([1, 2, 3].map((n) => sign(first, { jti: String(n) })));
  const facts = await Promise.all(tokens.map((token) => read(token, byUrl())));
  t.same(
    facts.map(({ kind }) => kind),
    ["verified", "verified", "verified"],
  );
  t.equal(server.fetches, 1);
});

t.test("keys that cannot be fetched leave the last good ones in force", async (t) => {
  const { clock, keySets, read, problems, server } = create();
  await keySets.refresh([byUrl()]);
  server.keys = new Error("connection refused");
  clock.nowMs += 300 * SECOND;
  await keySets.refresh([byUrl()]);
  t.match(problems, [/^keys from https:\/\/issuer\.example\/jwks\.json: connection refused$/]);
  const iat = clock.nowMs / SECOND;
  t.match(await read(await sign(first, { iat, exp: iat + 60 }), byUrl()), { kind: "verified" });
});

const badAnswers = [
  { name: "an error status", answer: () => new Response("no", { status: 500 }), why: /expected status 200, got 500/ },
  { name: "no JSON", answer: () => new Response("<html>"), why: /keys from/ },
  { name: "JSON without keys", answer: () => new Response('{"a":1}'), why: /keys from/ },
  {
    name: "more than a mebibyte",
    answer: () => new Response("x".repeat(1_048_577)),
    why: /expected at most 1048576 bytes/,
  },
];
for (const { name, answer, why } of badAnswers) {
  t.test(`${name} is no key set`, async (t) => {
    const problems: string[] = [];
    const keySets = new KeySets({
      now: () => NOON_MS,
      onError: ({ code, message }) => problems.push(`${code} ${message}`),
      fetch: (async () => answer()) as unknown as typeof fetch,
    });
    await keySets.refresh([byUrl()]);
    t.equal(await keySets.keysFor(byUrl()), undefined);
    t.match(problems, [why]);
    t.match(problems, [/^ERR_JWKS /]);
  });
}

t.test("keys of issuers that the policy no longer names are forgotten", async (t) => {
  const { keySets } = create();
  await keySets.refresh([byUrl("https://a.example/jwks"), byUrl("https://b.example/jwks")]);
  await keySets.refresh([byUrl("https://b.example/jwks")]);
  t.equal(await keySets.keysFor(byUrl("https://a.example/jwks")), undefined);
  t.not(await keySets.keysFor(byUrl("https://b.example/jwks")), undefined);
});

t.test("results are remembered of 16,384 tokens at most", async (t) => {
  const { tokens } = create();
  const issuers = [issuerWith([first])];
  for (let i = 0; i <= 16_384; i++) await tokens.read(`opaque-${i}`, issuers);
  t.ok(tokens.read("opaque-0", issuers) instanceof Promise, "the oldest is forgotten");
  t.notOk(tokens.read("opaque-16384", issuers) instanceof Promise);
});
