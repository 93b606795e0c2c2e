/** Drives raw TCP connections that are held through a tunnel inside Envoy, judged with fingerprints, and ended. */

import t from "tap";
import { runCommand } from "../../scripts/demo/sidecar.ts";
import { type Caller, type TlsConnection, tlsConnection } from "../support/clients.ts";
import { startEcho, startGuarded } from "../support/guarded.ts";

const guarded = await startGuarded({
  config: "envoy/tcp-held.yaml",
  service: startEcho,
  spec: {
    identity: { trustedSpiffe: ["spiffe://shop.example/ledger-*"] },
    rules: [{ name: "held", watch: true }],
  },
});
t.teardown(() => guarded.stop());

async function talking(name: string, more: Partial<Caller> = {}): Promise<TlsConnection> {
  const connection = await tlsConnection(await guarded.caller(name, more));
  connection.socket.write("credit 10");
  await connection.until("credit 10");
  return connection;
}

t.test("a tunnelled connection is judged as its caller's, with its TLS fingerprint", async (t) => {
  const connection = await talking("ledger-writer", { serverName: "vault.shop.example" });
  connection.socket.end();
  await connection.closed;
  const [entry] = await guarded.entries(1, (found) => found.method === "CONNECT");
  t.match(entry, {
    decision: "allow",
    principal: "spiffe://shop.example/ledger-writer",
    peer: "spiffe://shop.example/ledger-writer",
    source: "127.0.0.1",
    ja4: /^t13/,
    decision_id: /^[0-9a-f-]{36}$/,
  });
  const explained = await runCommand([
    ...["explain", String(entry!.decision_id), "--output", "json", "--api", `unix:${guarded.sidecar.apiSocket}`],
  ]);
  t.match(JSON.parse(explained.out), {
    protocol: "tcp",
    destination: "vault.shop.example",
    source_address: "127.0.0.1",
    credential: /^certificate:[0-9a-f]{64}$/,
    ja4: /^t13/,
  });
});

t.test("an untrusted caller never reaches the service", async (t) => {
  const before = guarded.service.accepted();
  const connection = await tlsConnection(await guarded.caller("stranger"));
  connection.socket.write("credit 10");
  await connection.closed;
  t.equal(connection.received(), "");
  t.equal(guarded.service.accepted(), before);
});

t.test("a lock ends the connections that it matches and no others", async (t) => {
  const mine = await talking("ledger-reader");
  const neighbour = await talking("ledger-writer");
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
  await mine.closed;
  neighbour.socket.write("debit 5");
  await neighbour.until("debit 5");
  neighbour.socket.end();
  await neighbour.closed;
  const entries = await guarded.entries(1, (entry) => entry.details === "sallyport_terminated");
  t.match(entries, [{ principal: "spiffe://shop.example/ledger-reader" }]);
});

t.test("a service that speaks first is heard, by those who are let through only", async (t) => {
  const greeting = await startGuarded({
    config: "envoy/tcp-held.yaml",
    service: (port) => startEcho(port, "220 ready"),
    spec: { identity: { trustedSpiffe: ["spiffe://shop.example/ledger-*"] } },
  });
  t.teardown(() => greeting.stop());
  const friend = await tlsConnection(await greeting.caller("ledger-writer"));
  await friend.until("220 ready");
  friend.socket.end();
  const stranger = await tlsConnection(await greeting.caller("stranger"));
  await stranger.closed;
  t.equal(stranger.received(), "");
});
