import { createHash, randomBytes } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { letAnybodyIn } from "../support/bootstrap.ts";
import { fetchOnce } from "../support/clients.ts";
import { command } from "../support/command.ts";
import { eventually, startGuarded, startOrders } from "../support/guarded.ts";

const random = (): string => randomBytes(18).toString("base64url");
const KEY = `sk-${random()}`;

const guarded = await startGuarded({
  config: "envoy/http-mtls.yaml",
  service: startOrders,
  spec: {
    identity: {
      issuers: [{ issuer: "https://issuer.example", audiences: ["sallyport"], jwks: { file: "jwks.json" } }],
      apiKeys: { keys: [{ name: "partner", sha256: createHash("sha256").update(KEY).digest("hex") }] },
    },
    rules: [
      { name: "closed", match: { routes: ["/admin/**"] }, decision: "deny" },
      { name: "step-up", match: { routes: ["/customers/**"] }, decision: "challenge" },
    ],
    response: { revealReasons: true },
  },
  flagsIn: (folder) => [
    ...["--log-level", "debug", "--state-dir", join(folder, "state"), "--snapshot-interval", "1s"],
    ...["--decision-log", join(folder, "decisions.log"), "--recording", join(folder, "recording")],
    ...["--api-token-file", join(folder, "api-token")],
  ],
  change: letAnybodyIn,
});
t.teardown(() => guarded.stop());
const { issuer, sidecar, envoy, folder } = guarded;

/** Everything that must never be seen again, by what it is. */
const secrets = new Map<string, string>([["a known key", KEY]]);

function secret(name: string, value = random()): string {
  secrets.set(name, value);
  return value;
}

/** A token's signature and claims are as secret as the whole: with them it can be put together again. */
function token(name: string, text: string): string {
  const [, claims, signature] = text.split(".");
  secret(`${name}: whole`, text);
  secret(`${name}: claims`, claims);
  secret(`${name}: signature`, signature);
  return text;
}

const answers: string[] = [];
const [web, anonymous] = [await guarded.caller("web"), await guarded.caller()];
const paths = ["/orders/1", "/admin/export", "/customers/1"];

t.test("traffic with secrets of every kind, admitted and refused", async (t) => {
  const headers: Record<string, string>[] = [
    { authorization: `Bearer ${token("a good token", await issuer.token({ subject: "spiffe://shop.example/web" }))}` },
    { authorization: `Bearer ${token("an old token", await issuer.token({ subject: "x", issuedAt: new Date(0) }))}` },
    { authorization: `Bearer ${token("a forged token", `${await issuer.token({ subject: "y" })}x`)}` },
    { authorization: `Bearer ${secret("an opaque token")}` },
    { authorization: `Basic ${secret("a password", Buffer.from(`user:${random()}`).toString("base64"))}` },
    { authorization: secret("a bare authorization") },
    { "x-api-key": KEY },
    { "x-api-key": secret("an unknown key") },
    { cookie: `session=${secret("a cookie")}` },
    { "x-forwarded-client-cert": `Hash=${secret("a forged certificate's hash", randomBytes(32).toString("hex"))}` },
    { "proxy-authorization": `Bearer ${secret("a proxy's token")}` },
    { "x-custom-secret": secret("a header of somebody's own") },
  ];
  for (const path of paths) {
    for (const more of headers) {
      for (const caller of [web, anonymous]) {
        const query = `?api_key=${secret(`in query ${secrets.size}`)}`;
        const answer = await fetchOnce(caller, { path: `${path}${query}`, headers: more });
        t.ok([200, 401, 403, 404].includes(answer.status), String(answer.status));
        if (answer.status !== 200) answers.push(JSON.stringify(answer));
      }
    }
  }
  const body = JSON.stringify({ item: secret("in a body"), quantity: 1 });
  t.equal((await fetchOnce(web, { path: "/orders", method: "POST", body })).status, 201);
});

t.test("commands and their files", async (t) => {
  const api = ["--api", sidecar.api];
  const apiToken = (await readFile(join(folder, "api-token"), "utf8")).trim();
  secret("the token of the local API", apiToken);
  secret(
    "the key of credential hashes",
    (await readFile(join(folder, "state", "credential-hash.key"))).toString("latin1"),
  );
  secret("the caller's private key", web.certificate!.keyPem.split("\n")[2]);
  const recent = await command(["tap", "--recent", "50", "--count", "50", "--output", "json", ...api]);
  const ids = recent.out
    .trim()
    .split("\n")
    .map((line) => (JSON.parse(line) as { decision_id: string }).decision_id);
  answers.push(recent.out);
  for (const id of ids) answers.push((await command(["explain", id, ...api])).out);
  answers.push((await command(["baseline", "show", ...api])).out);
  answers.push(
    (
      await command([
        "lock",
        "--credential",
        "token:none",
        "--reason",
        "test",
        ...api,
        "--api-token-file",
        join(folder, "api-token"),
      ])
    ).out,
  );
  answers.push((await command(["locks", ...api])).out);
  answers.push(
    (await command(["doctor", "--policy", guarded.policyPath, "--envoy-admin", `127.0.0.1:${envoy.adminPort}`, ...api]))
      .out,
  );
  t.ok(answers.every((answer) => answer.length > 0));
});

t.test("none of it is in any answer, log, metric, page, recording or state", async (t) => {
  const state = join(folder, "state", "baselines.state");
  await eventually(async () =>
    (await readFile(state).catch(() => "")).includes("shop.example/web") ? true : undefined,
  );
  const seen = new Map<string, string>([["answers and commands", answers.join("\n")]]);
  const files = [
    "sidecar.log",
    "decisions.log",
    "recording",
    join("state", "baselines.state"),
    join("state", "locks.journal"),
  ];
  for (const name of files) {
    const text = await readFile(join(folder, name), "latin1");
    t.ok(text.length > 100, `${name} holds something`);
    seen.set(name, text);
  }
  t.same((await readdir(join(folder, "state"))).sort(), [
    "baselines.state",
    "challenge-nonce.key",
    "credential-hash.key",
    "locks.journal",
  ]);
  seen.set("the access log", JSON.stringify(await envoy.accessLog()));
  seen.set("Envoy's own log", envoy.log());
  seen.set("metrics", await (await fetch(`http://${sidecar.health}/metrics`)).text());
  seen.set("readiness", await (await fetch(`http://${sidecar.health}/readyz`)).text());
  seen.set("the page", await (await fetch(`http://${sidecar.api}/`)).text());
  t.ok(secrets.size > 80, `${secrets.size} secrets`);
  for (const [where, text] of seen) {
    for (const [name, value] of secrets) if (text.includes(value)) t.fail(`${name} is in ${where}`);
    t.notOk(text.includes(createHash("sha256").update(KEY).digest("hex")), `the bare hash of a key is not in ${where}`);
    t.notOk(/BEGIN (?:EC |RSA )?PRIVATE KEY/.test(text), `no private key in ${where}`);
  }
  t.match(seen.get("decisions.log"), /"credential":"token:[0-9a-f]{16}"/, "credentials are known by keyed hashes");
});
