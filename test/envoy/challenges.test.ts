import { createPrivateKey, randomUUID } from "node:crypto";
import t, { type Test } from "tap";
import { tokenHash } from "../../src/challenge/dpop.ts";
import type { TokenWanted } from "../../src/client/caller.ts";
import type { CallerOptions } from "../../src/client/client.ts";
import { answeringCaller, type Protocol } from "../support/answering.ts";
import { type Caller, fetchOnce } from "../support/clients.ts";
import { startGuarded, startInventory, startOrders } from "../support/guarded.ts";
import { proofOf, type TestKey, testKey } from "../support/proofs.ts";

const ISSUER = "https://issuer.example";
const registered = testKey("EdDSA");

const challenged = (name: string, principals: readonly string[], challenge: object = {}) => ({
  name,
  match: { principals },
  decision: "challenge",
  challenge,
});
const spec = {
  identity: {
    issuers: [{ issuer: ISSUER, audiences: ["sallyport"], jwks: { file: "jwks.json" }, bindsCertificates: true }],
    registeredKeys: [
      { principals: [`${ISSUER}|registered`], jwks: { inline: JSON.stringify({ keys: [registered.jwk] }) } },
    ],
  },
  rules: [
    challenged("proving", [`${ISSUER}|honest-*`, "spiffe://shop.example/honest"]),
    challenged("signing", [`${ISSUER}|registered`, "spiffe://shop.example/signer", "spiffe://shop.example/forger"], {
      kinds: ["http_signature"],
    }),
    challenged("binding", ["spiffe://shop.example/binder"], { kinds: ["certificate_bound"] }),
    challenged("left", [`${ISSUER}|left`], { kinds: ["forward"] }),
  ],
};

const web = await startGuarded({ config: "envoy/jwt.yaml", service: startOrders, spec });
t.teardown(() => web.stop());
const stock = await startGuarded({ config: "envoy/grpc.yaml", service: startInventory, spec });
t.teardown(() => stock.stop());

const { issuer } = web;
const boundTo = (subject: string, key: TestKey, by = issuer): Promise<string> =>
  by.token({ subject, claims: { cnf: { jkt: key.jkt } } });

const PROTOCOLS: readonly Protocol[] = ["HTTP/1.1", "HTTP/2", "gRPC"];
const CODES = { "HTTP/1.1": [200, 401, 403], "HTTP/2": [200, 401, 403], gRPC: [0, 16, 7] } as const;

/** Over gRPC everybody shows a certificate. */
async function connected(t: Test, protocol: Protocol, options: CallerOptions, as?: Caller) {
  const guarded = protocol === "gRPC" ? stock : web;
  const caller = as ?? (await guarded.caller(protocol === "gRPC" ? "honest" : undefined));
  const made = answeringCaller(protocol, caller, options);
  t.teardown(() => made.close());
  return made;
}

for (const protocol of PROTOCOLS) {
  const [passed, asked, denied] = CODES[protocol];
  const by = protocol === "gRPC" ? stock.issuer : issuer;
  // Over gRPC, certificate and token name one caller.
  const subjectOf = (name: string): string => (protocol === "gRPC" ? "spiffe://shop.example/honest" : `honest-${name}`);

  t.test(`${protocol}: who holds the key answers by itself, and is not asked again`, async (t) => {
    const key = testKey();
    const token = await boundTo(subjectOf(`${protocol.length}${protocol.at(-1)}`), key, by);
    const caller = await connected(t, protocol, { key: key.privateKey, getToken: () => token });
    t.match(await caller.call(), { status: passed, tries: [asked, passed] });
    t.match(await caller.call(), { status: passed, tries: [passed] });
    t.match(await caller.call(), { status: passed, tries: [passed] });
  });

  t.test(`${protocol}: a stolen token with another key is denied, then ended for good`, async (t) => {
    const owner = testKey();
    const subject = protocol === "gRPC" ? "spiffe://shop.example/robbed" : `robbed-${protocol}`;
    const token = await boundTo(subject, owner, by);
    const thief = await connected(
      t,
      protocol,
      { key: testKey().privateKey, getToken: () => token },
      protocol === "gRPC" ? await stock.caller("robbed") : undefined,
    );
    for (let times = 0; times < 2; times++) t.match(await thief.call(), { status: denied, tries: [denied] });
    // The third answer comes as the connection ends, and may not be read any more.
    const last = await thief.call().catch(() => undefined);
    t.ok(last === undefined || last.status === denied);
    const guarded = protocol === "gRPC" ? stock : web;
    const entries = await guarded.entries(3, ({ principal }) => String(principal).endsWith(subject));
    t.same(
      entries.slice(0, 3).map(({ decision }) => decision),
      ["deny", "deny", "terminate"],
    );
    t.match(entries[0], { reasons: [/^credential\.binding:/] });
  });
}

t.test("a token that is not bound is asked to be fresher", async (t) => {
  let issued = await issuer.token({ subject: "honest-plain", issuedAt: new Date(Date.now() - 60_000) });
  const wanted: TokenWanted[] = [];
  const getToken = async (demand: TokenWanted) => {
    wanted.push(demand);
    if (demand.fresh) issued = await issuer.token({ subject: "honest-plain" });
    return issued;
  };
  const caller = await connected(t, "HTTP/1.1", { getToken });
  t.match(await caller.call(), { status: 200, tries: [401, 200] });
  t.match(wanted[1], { fresh: true, maxAgeSeconds: 0 });
  t.match(await caller.call(), { tries: [200] });
});

t.test("the key of the peer's certificate signs", async (t) => {
  const signer = await web.caller("signer");
  const key = createPrivateKey(signer.certificate!.keyPem);
  const caller = await connected(t, "HTTP/2", { key, tokenType: "Bearer" }, signer);
  t.match(await caller.call(), { status: 200, tries: [401, 200] });
  t.match(await caller.call(), { tries: [200] });
});

t.test("another key than the certificate's does not", async (t) => {
  const signer = await web.caller("forger");
  const caller = await connected(t, "HTTP/2", { key: testKey().privateKey, tokenType: "Bearer" }, signer);
  // Each failed answer counts at once; the third is one too many.
  for (let times = 0; times < 2; times++) t.match(await caller.call(), { tries: [401, 401] });
  t.match(await caller.call(), { tries: [401, 403] });
});

t.test("a registered key signs for the token's subject", async (t) => {
  const token = await issuer.token({ subject: "registered" });
  const caller = await connected(t, "HTTP/1.1", {
    key: registered.privateKey,
    tokenType: "Bearer",
    getToken: () => token,
  });
  t.match(await caller.call(), { status: 200, tries: [401, 200] });
  t.match(await caller.call(), { tries: [200] });
});

t.test("a fresh token that is bound to the certificate answers where one is asked for", async (t) => {
  const binder = await web.caller("binder");
  const thumbprint = Buffer.from(binder.certificate!.sha256, "hex").toString("base64url");
  const subject = "spiffe://shop.example/binder";
  const old = await issuer.token({ subject, issuedAt: new Date(Date.now() - 60_000) });
  const getToken = ({ fresh }: TokenWanted) =>
    fresh ? issuer.token({ subject, claims: { cnf: { "x5t#S256": thumbprint } } }) : old;
  const caller = await connected(t, "HTTP/1.1", { getToken }, binder);
  t.match(await caller.call(), { status: 200, tries: [401, 200] });
});

t.test("a forwarded challenge reaches the service", async (t) => {
  const token = await issuer.token({ subject: "left" });
  const caller = await connected(t, "HTTP/1.1", { getToken: () => token });
  t.match(await caller.call(), { tries: [200] });
  t.match(web.service.received.at(-1)?.headers, {
    "x-sallyport-challenge": "step-up",
    "x-sallyport-issued-after": /^\d+$/,
  });
});

t.test("who ignores challenges is denied after the policy's number of tries", async (t) => {
  await web.setPolicy({ ...spec, rules: [challenged("short", [`${ISSUER}|deaf`], { triesMax: 1 })] });
  t.teardown(() => web.setPolicy(spec));
  const token = await boundTo("deaf", testKey());
  const anyone = await web.caller();
  const headers = { authorization: `DPoP ${token}` };
  t.equal((await fetchOnce(anyone, { path: "/orders/1", headers })).status, 401);
  await new Promise((resolve) => setTimeout(resolve, 2_100)); // requests under way are not blamed
  t.equal((await fetchOnce(anyone, { path: "/orders/1", headers })).status, 403);
});

t.test("proofs by hand", async (t) => {
  const key = testKey();
  const token = await boundTo("honest-hand", key);
  const anyone = await web.caller();
  const htu = "https://orders.shop.example/orders/1";
  const proof = (claims: Record<string, unknown> = {}): string =>
    proofOf(key, {
      jti: randomUUID(),
      htm: "GET",
      htu,
      iat: Math.floor(Date.now() / 1_000),
      ath: tokenHash(token),
      ...claims,
    });
  const send = (dpop: string | undefined, scheme = "DPoP") =>
    fetchOnce(anyone, {
      path: "/orders/1?page=2",
      headers: { authorization: `${scheme} ${token}`, ...(dpop === undefined ? {} : { dpop }) },
    });

  const early = await fetchOnce(anyone, {
    path: "/orders/1",
    headers: { authorization: `DPoP ${await boundTo("honest-other", testKey())}` },
  });
  const earlier = String(early.headers["dpop-nonce"]);
  const bare = await send(undefined, "Bearer");
  t.match(bare, { status: 401, headers: { "www-authenticate": /^DPoP error="use_dpop_nonce".*algs="/ } });
  const unasked = await send(proof({ nonce: earlier }));
  t.match(
    unasked,
    { status: 401, headers: { "dpop-nonce": /./ } },
    "a nonce from before the challenge does not answer",
  );
  const answer = proof({ nonce: unasked.headers["dpop-nonce"] });
  t.equal((await send(answer)).status, 200);

  const bareProof = await send(proof());
  t.match(
    bareProof,
    { status: 200, headers: { "dpop-nonce": /./ } },
    "who sends no nonce is given one with the answer",
  );
  const madeUp = await send(proof({ nonce: "made-up" }));
  t.match(madeUp, { status: 200, headers: { "dpop-nonce": /./ } }, "a nonce that is none counts as none");
  const behind = await send(proof({ iat: Math.floor(Date.now() / 1_000) - 120 }));
  t.match(behind, { status: 401, headers: { "dpop-nonce": /./ } }, "a clock that is behind needs a nonce");
  const late = proof({ iat: Math.floor(Date.now() / 1_000) - 120, nonce: behind.headers["dpop-nonce"] });
  t.equal((await send(late, "Bearer")).status, 200, "and passes with one, whatever the scheme is called");

  t.not((await send(answer)).status, 200, "a proof passes once");
  t.not((await send(proof({ htu: "https://other.example/orders/1" }))).status, 200, "and where it was made for");
  t.not((await send(proof({ iat: Math.floor(Date.now() / 1_000) + 60 }))).status, 200, "not from the future");
});
