import { once } from "node:events";
import t from "tap";
import { WebSocket } from "ws";
import { startSidecarProcess } from "../../scripts/demo/sidecar.ts";
import { reportOften } from "../support/bootstrap.ts";
import { type Caller, curl, fetchOnce, http2Client, nodeClient, python } from "../support/clients.ts";
import { command } from "../support/command.ts";
import { type Entry, eventually, metric, startGuarded, startOrders } from "../support/guarded.ts";

const guarded = await startGuarded({
  config: "envoy/http-mtls.yaml",
  service: startOrders,
  spec: {
    rules: [
      { name: "closed", match: { routes: ["/admin/**"] }, decision: "deny" },
      { name: "step-up", match: { routes: ["/customers/**"] }, decision: "challenge" },
    ],
  },
  change: reportOften,
});
t.teardown(() => guarded.stop());
const { sidecar, service, envoy } = guarded;
const PRIVATE = ["--api", `unix:${sidecar.apiSocket}`];

const lock = (name: string) =>
  command(["lock", "--principal", `spiffe://shop.example/${name}`, "--reason", "test", ...PRIVATE]);
const logged = async (fits: (entry: Entry) => boolean): Promise<Entry> => (await guarded.entries(1, fits)).at(-1)!;

t.test("over HTTP/2 calls of one connection are judged one by one", async (t) => {
  const client = await http2Client(await guarded.caller("web"));
  t.teardown(() => client.close());
  const [open, closed, challenged] = await Promise.all(
    ["/orders/1", "/admin/export", "/customers/1"].map((path) => client.send({ path })),
  );
  t.same([open?.status, closed?.status, challenged?.status], [200, 403, 401]);
  t.match(closed?.headers["content-type"], "application/problem+json");
  t.match(challenged?.headers["www-authenticate"], /^Bearer error="insufficient_user_authentication"/);
  t.equal((await client.send({ path: "/orders/2" })).status, 200, "a denial ends nothing else");
  t.match(await logged(({ path }) => path === "/admin/export"), { decision: "deny", code: 403, ja4: /^t13\w{5}h2_/ });
});

t.test("over HTTP/2 our own headers cannot be spoofed either", async (t) => {
  const client = await http2Client(await guarded.caller("spoofer"));
  t.teardown(() => client.close());
  const headers = {
    "x-sallyport-principal": "spiffe://shop.example/admin",
    "x-sallyport-source": "10.0.0.1",
    "x-sallyport-ja4": "t13d0000h2_000000000000_000000000000",
    "x-sallyport-anything": "1",
    x_sallyport_decision: "allow",
  };
  t.equal((await client.send({ path: "/orders/3", headers })).status, 200);
  const received = service.received.at(-1)?.headers ?? {};
  t.equal(received["x-sallyport-principal"], "spiffe://shop.example/spoofer");
  t.same(
    Object.keys(received)
      .filter((name) => /sallyport/.test(name))
      .sort(),
    ["x-sallyport-decision", "x-sallyport-decision-id", "x-sallyport-principal", "x-sallyport-score"],
  );
  const { out } = await command([
    "explain",
    String(received["x-sallyport-decision-id"]),
    "--output",
    "json",
    "--api",
    sidecar.api,
  ]);
  t.match(JSON.parse(out), { source_address: "127.0.0.1", ja4: /^t13\w{5}h2_(?!0{12})/ });
});

t.test("terminate over HTTP/1.1 closes the connection with the answer; a denial keeps it", async (t) => {
  const client = nodeClient(await guarded.caller("first-victim"));
  t.teardown(() => client.close());
  await client.send({ path: "/orders/1" });
  t.equal((await client.send({ path: "/admin/export" })).status, 403);
  await client.send({ path: "/orders/1" });
  t.equal(client.connections(), 1);
  await lock("first-victim");
  const ended = await client.send({ path: "/orders/1" });
  t.match([ended.status, ended.headers.connection], [403, "close"]);
  t.match(JSON.parse(ended.body), { title: "Session ended", type: "https://sallyport.dev/problems/terminated" });
  await client.send({ path: "/orders/1" });
  t.equal(client.connections(), 2);
});

t.test("terminate over HTTP/2 tells the connection to go away, and it goes; others stay", async (t) => {
  const [victim, bystander] = await Promise.all(
    ["second-victim", "bystander"].map(async (name) => http2Client(await guarded.caller(name))),
  );
  t.teardown(() => bystander?.close());
  t.equal((await victim?.send({ path: "/orders/1" }))?.status, 200);
  await lock("second-victim");
  t.equal((await victim?.send({ path: "/orders/1" }))?.status, 403);
  await victim?.goneAway;
  await victim?.closed;
  t.equal((await bystander?.send({ path: "/orders/1" }))?.status, 200);
});

t.test("clients are told apart by their TLS fingerprints, whatever they say they are", async (t) => {
  const headers = { "user-agent": "billing/1.0" };
  const caller: Caller = await guarded.caller("many-hands");
  await fetchOnce(caller, { path: "/orders/11", headers });
  await curl(caller, { path: "/orders/12", headers }, ["--http1.1"]);
  await python(caller, { path: "/orders/13", headers });
  const prints = await Promise.all(
    ["/orders/11", "/orders/12", "/orders/13"].map(async (path) => await logged((entry) => entry.path === path)),
  );
  const ciphers = prints.map(({ ja4 }) => String(ja4).split("_")[1]);
  t.equal(new Set(ciphers).size, 3, ciphers.join(" "));
  for (const { ja3, ja4 } of prints)
    t.match([ja3, ja4], [/^[0-9a-f]{32}$/, /^t1[23][di]\d{4}\w\w_[0-9a-f]{12}_[0-9a-f]{12}$/]);
});

function webSocket({ port, caPem, certificate }: Caller): WebSocket {
  return new WebSocket(`wss://localhost:${port}/live`, {
    ca: caPem,
    cert: certificate?.certPem,
    key: certificate?.keyPem,
  });
}

t.test("a WebSocket is judged at its beginning, and its bytes are told while it runs", async (t) => {
  const socket = webSocket(await guarded.caller("chatty"));
  await once(socket, "open");
  const before = await metric(sidecar, "sallyport_outcomes_total", 'stage="periodic"');
  socket.send("hello");
  t.equal(String((await once(socket, "message"))[0]), "hello");
  await eventually(
    async () => (await metric(sidecar, "sallyport_outcomes_total", 'stage="periodic"')) > before || undefined,
  );
  socket.close();
  await once(socket, "close");
  await lock("chatty");
  const refused = webSocket(await guarded.caller("chatty"));
  const [error] = (await once(refused, "error")) as [Error];
  t.match(error.message, /403/);
});

t.test("outcomes of ended and of running requests reach the sidecar", async (t) => {
  const count = (stage: string): Promise<number> => metric(sidecar, "sallyport_outcomes_total", `stage="${stage}"`);
  const before = await count("end");
  const caller = await guarded.caller("web");
  for (let i = 0; i < 5; i++) await fetchOnce(caller, { path: "/orders/1" });
  t.ok(await eventually(async () => (await count("end")) >= before + 5 || undefined));
  const running = await count("periodic");
  const client = nodeClient(caller);
  const response = await client.open({ path: "/stream" });
  response.on("error", () => {}); // cut below
  response.resume();
  t.ok(await eventually(async () => (await count("periodic")) > running || undefined));
  client.close();
  response.destroy();
});

t.test("the doctor finds the running Envoy and sidecar sound together", async (t) => {
  const { code, out } = await command([
    ...["doctor", "--policy", guarded.policyPath, "--envoy-admin", `127.0.0.1:${envoy.adminPort}`],
    ...["--api", sidecar.api, "--streams-address", sidecar.streams],
  ]);
  t.equal(code, 0, out);
  t.notOk(/^(?:warn|BAD)/m.test(out), out);
  t.match(out, /ext_authz in callers: client copies of x-sallyport- headers are removed before the check/);
});

t.test("without a sidecar nobody passes, and the access log says why; with one again, everybody does", async (t) => {
  const caller = await guarded.caller("web");
  await sidecar.kill();
  const answer = await fetchOnce(caller, { path: "/orders/away" });
  t.equal(answer.status, 503);
  t.match(await logged(({ path }) => path === "/orders/away"), {
    code: 503,
    details: "ext_authz_error",
    flags: "UAEX",
    decision: null,
  });
  const again = await startSidecarProcess({
    name: "again",
    folder: guarded.folder,
    flags: ["--ext-authz-address", sidecar.extAuthz, "--streams-address", sidecar.streams],
  });
  t.teardown(() => again.stop());
  await eventually(async () => (await fetchOnce(caller, { path: "/orders/1" })).status === 200 || undefined);
});
