import t from "tap";
import { runCommand } from "../../scripts/demo/sidecar.ts";
import { tlsConnection } from "../support/clients.ts";
import { startEcho, startGuarded } from "../support/guarded.ts";

const guarded = await startGuarded({
  config: "envoy/tcp.yaml",
  service: startEcho,
  spec: { identity: { trustedSpiffe: ["spiffe://shop.example/ledger-*"] } },
});
t.teardown(() => guarded.stop());

async function echo(name: string): Promise<string | undefined> {
  const connection = await tlsConnection(await guarded.caller(name));
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
    ...["lock", "--principal", "spiffe://shop.example/ledger-reader", "--api", `unix:${guarded.sidecar.apiSocket}`],
  ]);
  t.not(await echo("ledger-reader"), "passed");
  t.equal(await echo("ledger-writer"), "passed");
});
