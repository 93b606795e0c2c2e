import { generateKeyPairSync, webcrypto } from "node:crypto";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import t, { type Test } from "tap";
import type { TokenWanted } from "../../src/client/caller.ts";
import { type CallerKey, type FetchOptions, sallyportFetch, signerOf, signerOfPair } from "../../src/client/client.ts";
import { challengingHttp, createGuard, type Demand } from "../support/challenging-server.ts";
import { testKey } from "../support/proofs.ts";

const key = testKey("ES256");

async function setUp(t: Test, demand: Demand, options: Partial<FetchOptions> = {}, jwk: unknown = key.jwk) {
  const guard = createGuard(demand, jwk);
  const server = await challengingHttp(guard);
  t.teardown(() => server.close());
  const asked: TokenWanted[] = [];
  let issued = 0;
  const call = sallyportFetch({
    key: key.privateKey,
    getToken: (wanted) => {
      asked.push(wanted);
      if (!wanted.fresh) return "kept-token";
      const token = `fresh-${++issued}`;
      guard.freshTokens.add(token);
      return token;
    },
    ...options,
  });
  return { guard, call, asked, origin: server.origin, url: `${server.origin}/orders/7?full=1` };
}

t.test("a DPoP challenge is answered by itself, and the next request needs none", async (t) => {
  const { guard, call, url } = await setUp(t, "dpop");
  t.equal((await call(url)).status, 200);
  t.same(guard.outcomes, ["dpop-nonce,www-authenticate", "passed"]);
  t.equal((await call(url, { method: "POST", body: "x" })).status, 200);
  t.equal(guard.outcomes.length, 3, "the nonce was remembered");
});

t.test("a nonce from an ordinary answer is used for the next request", async (t) => {
  const { guard, call, url } = await setUp(t, "none");
  await call(url);
  guard.demand = "dpop";
  t.equal((await call(url)).status, 200);
  t.same(guard.outcomes, ["passed", "passed"]);
});

t.test("a bearer token's key proves itself only when challenged", async (t) => {
  const { guard, call, url } = await setUp(t, "dpop", { tokenType: "Bearer" });
  t.equal((await call(url)).status, 200);
  t.equal((await call(url)).status, 200);
  t.equal(guard.outcomes.length, 4);
});

t.test("a caller with a key and no token proves itself as well", async (t) => {
  const { call, url } = await setUp(t, "dpop", { getToken: () => undefined });
  t.equal((await call(url)).status, 200);
});

t.test("a signature challenge is answered by itself", async (t) => {
  const { guard, call, url } = await setUp(t, "signature");
  t.equal((await call(url, { method: "DELETE" })).status, 200);
  t.same(guard.outcomes, ["accept-signature", "passed"]);
});

const bodies: readonly (readonly [string, () => RequestInit["body"], string])[] = [
  ["text", () => "héllo", "héllo"],
  ["bytes", () => new TextEncoder().encode("abc").subarray(1), "bc"],
  ["a buffer", () => new TextEncoder().encode("abc").buffer as ArrayBuffer, "abc"],
  ["parameters", () => new URLSearchParams({ a: "b c" }), "a=b+c"],
  ["a blob", () => new Blob(["blob"]), "blob"],
];
for (const [name, body, want] of bodies) {
  t.test(`a body of ${name} is sent again, under its digest`, async (t) => {
    const { call, url } = await setUp(t, "signature_with_digest");
    const response = await call(url, { method: "POST", body: body() ?? null });
    t.equal(response.status, 200);
    t.equal(await response.text(), want);
  });
}

t.test("a request without a body is signed under the digest of nothing", async (t) => {
  const { call, url } = await setUp(t, "signature_with_digest");
  t.equal((await call(url)).status, 200);
});

t.test("a form is sent again where its digest is not asked for, and refused where it is", async (t) => {
  const form = new FormData();
  form.set("a", "b");
  const plain = await setUp(t, "dpop");
  t.equal((await plain.call(plain.url, { method: "POST", body: form })).status, 200);
  const digested = await setUp(t, "signature_with_digest");
  t.equal((await digested.call(digested.url, { method: "POST", body: form })).status, 401);
});

t.test("a stream is not sent again: the refusal comes back whole, and the next request passes", async (t) => {
  const { guard, call, url } = await setUp(t, "dpop");
  const stream = () =>
    new ReadableStream({
      start: (controller) => {
        controller.enqueue(new TextEncoder().encode("streamed"));
        controller.close();
      },
    });
  const post = () => call(url, { method: "POST", body: stream(), duplex: "half" } as RequestInit);
  const refused = await post();
  t.equal(refused.status, 401);
  t.equal(await refused.text(), "refused");
  t.equal(guard.outcomes.length, 1);
  t.equal(await (await post()).text(), "streamed");
});

t.test("a Request is taken as fetch takes it; with a body of its own it is not sent again", async (t) => {
  const { call, url } = await setUp(t, "dpop");
  t.equal((await call(new Request(url, { method: "POST", body: "x" }))).status, 401);
  t.equal((await call(new Request(url, { method: "POST", body: "x" }))).status, 200);
  const other = await setUp(t, "dpop");
  t.equal((await other.call(new Request(other.url, { headers: { "x-own": "1" } }))).status, 200);
});

t.test("a step-up is answered with a fresh token of the wanted class and age", async (t) => {
  const { guard, call, url, asked } = await setUp(t, "step_up");
  t.equal((await call(url)).status, 200);
  t.same(asked, [
    { fresh: false, acrValues: [], maxAgeSeconds: undefined },
    { fresh: true, acrValues: ["workload"], maxAgeSeconds: 0 },
  ]);
  t.equal(guard.outcomes.length, 2);
});

t.test("a step-up without a fresher token comes back as it is", async (t) => {
  const { guard, call, url } = await setUp(t, "step_up", { getToken: () => "kept-token" });
  t.equal((await call(url)).status, 401);
  t.equal(guard.outcomes.length, 1);
});

t.test("two challenges in a row are answered, each once", async (t) => {
  const { guard, call, url } = await setUp(t, "dpop_then_step_up");
  t.equal((await call(url)).status, 200);
  t.equal(guard.outcomes.length, 3);
});

t.test("a service that is never content is asked three times and no more", async (t) => {
  const { guard, call, url } = await setUp(t, "never");
  t.equal((await call(url)).status, 401);
  t.ok(guard.outcomes.length <= 3, `${guard.outcomes.length} requests`);
});

t.test("a key that does not count is refused, and that is not tried again", async (t) => {
  const { guard, call, url } = await setUp(t, "dpop", { key: testKey("ES256").privateKey });
  t.equal((await call(url)).status, 401);
  t.same(guard.outcomes, ["x-why"]);
});

t.test("a caller without key or tokens passes refusals on", async (t) => {
  const guard = createGuard("never", key.jwk);
  const server = await challengingHttp(guard);
  t.teardown(() => server.close());
  t.equal((await sallyportFetch({})(server.origin)).status, 401);
  t.equal(guard.outcomes.length, 1);
});

t.test("other origins get neither token nor proof", async (t) => {
  const seen: unknown[] = [];
  const call = sallyportFetch({
    key: key.privateKey,
    getToken: () => "secret",
    origins: ["https://orders.example"],
    fetch: (async (_input: unknown, init?: RequestInit) => {
      seen.push(init?.headers);
      return new Response("", { status: 200 });
    }) as typeof fetch,
  });
  await call("https://elsewhere.example/");
  t.same(seen, [undefined]);
  await call("https://orders.example/");
  t.equal((seen[1] as Headers).get("authorization"), "DPoP secret");
});

t.test("a refusal at the end of a redirect is not answered", async (t) => {
  const { guard, call, origin } = await setUp(t, "dpop");
  const redirecting = createServer((_request, response) => response.writeHead(307, { location: origin }).end());
  await new Promise<void>((resolve) => redirecting.listen(0, "127.0.0.1", resolve));
  t.teardown(() => redirecting.close());
  const { port } = redirecting.address() as AddressInfo;
  t.equal((await call(`http://127.0.0.1:${port}/`)).status, 401);
  t.equal(guard.outcomes.length, 1);
});

t.test("what getToken throws, the caller gets", async (t) => {
  const { call, url } = await setUp(t, "none", {
    getToken: () => {
      throw new Error("no token today");
    },
  });
  await t.rejects(call(url), { message: "no token today" });
});

const pairs = [
  ["ECDSA P-256", { name: "ECDSA", namedCurve: "P-256" }],
  ["ECDSA P-384", { name: "ECDSA", namedCurve: "P-384" }],
  ["Ed25519", { name: "Ed25519" }],
  ["RSA-PSS", { name: "RSA-PSS", hash: "SHA-512", modulusLength: 2048, publicExponent: new Uint8Array([1, 0, 1]) }],
] as const;
for (const [name, algorithm] of pairs) {
  t.test(`a WebCrypto pair that cannot be extracted makes proofs and signatures: ${name}`, async (t) => {
    const pair = (await webcrypto.subtle.generateKey(algorithm as unknown as webcrypto.EcKeyGenParams, false, [
      "sign",
      "verify",
    ])) as webcrypto.CryptoKeyPair;
    const { publicJwk, thumbprint } = await signerOfPair(pair);
    t.match(thumbprint, /^[\w-]{43}$/);
    for (const demand of ["dpop", "signature"] as const) {
      const { call, url } = await setUp(t, demand, { key: pair }, publicJwk);
      t.equal((await call(url)).status, 200, demand);
    }
  });
}

const forms: readonly (readonly [string, CallerKey, unknown])[] = [
  ["a private JWK", key.privateKey.export({ format: "jwk" }) as CallerKey, key.jwk],
  ...["ES384", "ES512", "EdDSA", "PS256"].map((alg) => {
    const made = testKey(alg);
    return [`a KeyObject for ${alg}`, made.privateKey, made.jwk] as const;
  }),
  ["a signer of one's own", signerOf(key.privateKey), key.jwk],
];
for (const [name, form, jwk] of forms) {
  t.test(`${name} makes proofs`, async (t) => {
    const { call, url } = await setUp(t, "dpop", { key: form }, jwk);
    t.equal((await call(url)).status, 200);
  });
}

t.test("keys that can make no proofs are refused at first use", async (t) => {
  const { publicKey, privateKey } = generateKeyPairSync("x25519");
  t.throws(() => signerOf(publicKey), TypeError);
  t.throws(() => signerOf(privateKey), TypeError);
});
