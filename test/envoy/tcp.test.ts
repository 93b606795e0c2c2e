import t from "tap";
import { runCommand } from "../../scripts/demo/sidecar.ts";
import { reportOften } from "../support/bootstrap.ts";
import { type Caller, tlsConnection } from "../support/clients.ts";
import { eventually, metric, startEcho, startGuarded } from "../support/guarded.ts";

const guarded = await startGuarded({
  config: "envoy/tcp.yaml",
  service: startEcho,
  spec: {
    identity: { trustedSpiffe: ["spiffe://shop.example/ledger-*"] },
    rules: [
      { name: "closed", match: { destinations: ["vault.shop.example"] }, decision: "deny" },
      {
        name: "watched",
        match: { principals: ["spiffe://shop.example/ledger-watched"] },
        decision: "deny",
        mode: "observe",
      },
      { name: "doubted", match: { principals: ["spiffe://shop.example/ledger-doubted"] }, decision: "challenge" },
    ],
  },
  change: reportOften,
});
t.teardown(() => guarded.stop());

async function echo(name: string, more: Partial<Caller> = {}): Promise<string | undefined> {
  const connection = await tlsConnection(await guarded.caller(name, more));
  connection.socket.write("credit 10");
  const passed = await connection.until("credit 10").then(
    () => true,
    () => false,
  );
  connection.socket.end();
  const code = await connection.closed;
  return passed ? "passed" : code;
}

t.test("an honest connection passes and is logged with its decision", async (t) => {
  t.equal(await echo("ledger-writer"), "passed");
  t.match((await guarded.entries(1))[0], {
    decision: "allow",
    principal: "spiffe://shop.example/ledger-writer",
    decision_id: /^[0-9a-f-]{36}$/,
    policy_revision: "one",
    ja4: /^t13/,
  });
});

t.test("an untrusted certificate is closed with a TLS alert before the service hears of it", async (t) => {
  const before = guarded.service.accepted();
  t.equal(await echo("stranger"), "ERR_SSL_TLSV1_ALERT_ACCESS_DENIED");
  t.equal(guarded.service.accepted(), before);
  t.match((await guarded.entries(2)).at(-1), { decision: "deny", reasons: ["identity.untrusted:100"] });
});

t.test("a connection of a locked principal is closed, others are not", async (t) => {
  await runCommand([
    ...[
      "lock",
      "--principal",
      "spiffe://shop.example/ledger-reader",
      "--reason",
      "test",
      "--api",
      `unix:${guarded.sidecar.apiSocket}`,
    ],
  ]);
  t.not(await echo("ledger-reader"), "passed");
  t.equal(await echo("ledger-writer"), "passed");
});

t.test("a connection is judged by the server name that it asks for", async (t) => {
  t.equal(await echo("ledger-writer", { serverName: "vault.shop.example" }), "ERR_SSL_TLSV1_ALERT_ACCESS_DENIED");
  t.equal(await echo("ledger-writer", { serverName: "ledger.shop.example" }), "passed");
});

t.test("a challenge cannot be put to a raw connection: it is closed", async (t) => {
  const before = guarded.service.accepted();
  t.equal(await echo("ledger-doubted"), "ERR_SSL_TLSV1_ALERT_ACCESS_DENIED");
  t.equal(guarded.service.accepted(), before);
});

t.test("observed connections pass, and the access log says what would have been", async (t) => {
  t.equal(await echo("ledger-watched"), "passed");
  const watched = ({ principal }: { readonly principal?: unknown }) =>
    principal === "spiffe://shop.example/ledger-watched";
  t.match((await guarded.entries(1, watched)).at(-1), {
    decision: "deny",
    mode: "observe",
    score: Number,
    reasons: Array,
  });
});

t.test("outcomes of connections reach the sidecar, while they run and at their end", async (t) => {
  const count = (stage: string): Promise<number> =>
    metric(guarded.sidecar, "sallyport_outcomes_total", `stage="${stage}"`);
  const [running, ended] = await Promise.all([count("periodic"), count("end")]);
  const connection = await tlsConnection(await guarded.caller("ledger-writer"));
  connection.socket.write("credit 10");
  await connection.until("credit 10");
  t.ok(await eventually(async () => (await count("periodic")) > running || undefined));
  connection.socket.end();
  await connection.closed;
  t.ok(await eventually(async () => (await count("end")) > ended || undefined));
});
