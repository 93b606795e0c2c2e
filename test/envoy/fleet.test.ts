/** Drives a fleet's orders down to open streams at a real Envoy, and what happens there up to those who want to hear. */

import { createHash, generateKeyPairSync } from "node:crypto";
import { join } from "node:path";
import t from "tap";
import { makeScene } from "../control/scene.ts";
import { jwks, sign } from "../shared-signals/world.ts";
import { fetchOnce } from "../support/clients.ts";
import { eventually, metric, startGuarded, startOrders } from "../support/guarded.ts";
import { answerOverHttp1, answerOverHttp2, http2Session, webSocket } from "../support/streams.ts";

/** Requests under way when a challenge was put are not blamed for it: 2 s. */
const AFTER_GRACE_MS = 2_200;
const VICTIM = "spiffe://shop.example/victim";

const hash = (text: string): string => createHash("sha256").update(text).digest("hex");

const scene = await makeScene(t);
const idp = generateKeyPairSync("ec", { namedCurve: "P-256" });
await scene.file("idp.json", jwks(["one", idp]));
await scene.file("signing.pem", generateKeyPairSync("ed25519").privateKey.export({ type: "pkcs8", format: "pem" }));
const signals = await scene.file(
  "signals.yaml",
  `receive:
  - name: idp
    issuer: https://idp.example.com/
    audiences: [https://sallyport.example.com]
    keys: { file: idp.json }
    push: { tokenSha256: [${hash("push-token")}] }
    scope: { principals: ["spiffe://shop.example/**"] }
transmit:
  issuer: https://sallyport.example.com
  keys: [signing.pem]
  receivers:
    - { name: siem, tokenSha256: [${hash("siem-token")}], audience: [https://siem.example.com] }
`,
);
const control = await scene.control(["--state-dir", join(scene.folder, "control"), "--shared-signals", signals]);
const spec = `
  rules:
    - { name: step-up, match: { routes: ["/step-up/**"] }, decision: challenge, challenge: { triesMax: 1 } }
`;
const published = await control.fleet("publish", await scene.bundle({ revision: 1, spec }));
if (published.code !== 0) throw new Error(published.err);
const guarded = await startGuarded({
  config: "envoy/http-mtls.yaml",
  service: startOrders,
  unpolicied: true,
  flagsIn: (folder) => [
    ...["--control", control.url, "--control-token-file", join(scene.folder, "sidecar.token")],
    ...["--bundle-keys", join(scene.folder, "keys.json"), "--state-dir", join(folder, "state"), "--sidecar-id", "one"],
  ],
});
t.teardown(() => guarded.stop());

async function streamsOf(name: string) {
  const caller = await guarded.caller(name);
  const session = await http2Session(caller);
  t.teardown(() => session.destroy());
  const accept = { accept: "text/event-stream" };
  const streams = [
    await webSocket(caller),
    await answerOverHttp1(caller, "/stream", accept),
    await answerOverHttp2(session, "/stream", accept),
  ];
  t.teardown(() => {
    for (const stream of streams) stream.close();
  });
  return streams;
}

const held = (count: number): Promise<true> =>
  eventually(async () => ((await metric(guarded.sidecar, "sallyport_open_streams")) >= count ? true : undefined));

t.test("a lock of the fleet ends what is open at this Envoy and refuses what comes, and nobody else's", async (t) => {
  const [victims, neighbours] = [await streamsOf("victim"), await streamsOf("neighbour")];
  await held(6);
  const { code, out, err } = await control.fleet(
    ...["lock", "--principal", VICTIM, "--reason", "incident 12", "--output", "json"],
  );
  t.equal(code, 0, err);
  await Promise.all(victims.map(({ over }) => over));
  t.same(
    neighbours.map((stream) => stream.isOpen()),
    [true, true, true],
  );
  t.equal((await fetchOnce(await guarded.caller("victim"), { path: "/orders" })).status, 403);
  t.match(await control.fleet("unlock", (JSON.parse(out) as { id: string }).id), { code: 0 });
  await eventually(async () =>
    (await fetchOnce(await guarded.caller("victim"), { path: "/orders" })).status === 200 ? true : undefined,
  );
});

t.test("a session that an identity provider revokes ends at this Envoy", async (t) => {
  const [victims, neighbours] = [await streamsOf("victim"), await streamsOf("neighbour")];
  await held(6);
  const set = await sign(
    {
      iss: "https://idp.example.com/",
      jti: "revoked-1",
      iat: Math.floor(Date.now() / 1_000),
      aud: "https://sallyport.example.com",
      sub_id: { format: "uri", uri: VICTIM },
      events: { "https://schemas.openid.net/secevent/caep/event-type/session-revoked": {} },
    },
    idp.privateKey,
  );
  const headers = { authorization: "Bearer push-token", "content-type": "application/secevent+jwt" };
  const answer = await fetch(`${control.url}/ssf/receive/idp`, { method: "POST", headers, body: set });
  t.equal(answer.status, 202);
  await Promise.all(victims.map(({ over }) => over));
  t.ok(neighbours.every((stream) => stream.isOpen()));
  t.equal((await fetchOnce(await guarded.caller("victim"), { path: "/orders" })).status, 403);
});

t.test("who is denied here after a challenge is told to a receiver as a risk", async (t) => {
  const siem = { authorization: "Bearer siem-token", "content-type": "application/json" };
  const made = await fetch(`${control.url}/ssf/stream`, {
    method: "POST",
    headers: siem,
    body: JSON.stringify({ delivery: { method: "urn:ietf:rfc:8936" } }),
  });
  t.equal(made.status, 201);
  const { stream_id } = (await made.json()) as { stream_id: string };
  const stubborn = await guarded.caller("stubborn");
  t.equal((await fetchOnce(stubborn, { path: "/step-up/1" })).status, 401);
  await new Promise((resolve) => setTimeout(resolve, AFTER_GRACE_MS));
  t.equal((await fetchOnce(stubborn, { path: "/step-up/1" })).status, 403);
  // Reports go every half minute.
  let sets: string[] = [];
  for (let tries = 0; tries < 10 && sets.length === 0; tries++) {
    sets = await eventually(async () => {
      const polled = await fetch(`${control.url}/ssf/poll/${stream_id}`, {
        method: "POST",
        headers: siem,
        body: JSON.stringify({ returnImmediately: true }),
      });
      return Object.values(((await polled.json()) as { sets: Record<string, string> }).sets);
    });
    if (sets.length === 0) await new Promise((resolve) => setTimeout(resolve, 4_000));
  }
  const [event] = sets.map((set) => JSON.parse(Buffer.from(set.split(".")[1] ?? "", "base64url").toString()));
  t.match(event, {
    sub_id: { format: "uri", uri: "spiffe://shop.example/stubborn" },
    events: { "https://schemas.openid.net/secevent/caep/event-type/risk-level-change": {} },
  });
});
