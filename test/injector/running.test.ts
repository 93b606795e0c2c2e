import { spawn } from "node:child_process";
import { once } from "node:events";
import { statSync } from "node:fs";
import { createServer, type ServerResponse } from "node:http";
import { connect } from "node:tls";
import t from "tap";
import { createPki } from "../../scripts/pki.ts";
import { injectPod, type JsonObject, parseInjectorConfig } from "../../src/injector/injection.ts";
import { applyPatch } from "../../src/injector/patch.ts";
import { type Caller, fetchOnce } from "../support/clients.ts";
import { eventually } from "../support/guarded.ts";
import { type AppProcess, type RunningPod, runPod } from "../support/pod.ts";
import { freePort } from "../support/ports.ts";
import { skipUnless } from "../support/skip.ts";

/** What is injected is run: the exact arguments, probes and hooks, only paths and the pod's address are this machine's. */
const pki = await createPki();
const PREFIX = "spiffe://shop.example/";

interface TestApp extends AppProcess {
  readonly paths: readonly string[];
  /** Lets the requests to `/slow` be answered. */
  release(): void;
  readonly waiting: number;
  /** Lets go of the application's `preStop`, once it was asked to end. */
  leave(): void;
  readonly isAskedToEnd: boolean;
}

interface Tried {
  readonly pod: RunningPod;
  readonly app: TestApp;
  readonly inboundPort: number;
  readonly adminPort: number;
  readonly envoyHealth: number;
  caller(name: string): Promise<Caller>;
}

async function secretOf(dns: string): Promise<Record<string, string>> {
  const { certPem, keyPem } = await pki.issue({ spiffeId: `${PREFIX}orders`, dns: [dns] });
  return { "tls.crt": certPem, "tls.key": keyPem, "ca.crt": pki.caPem };
}

/** An application that ends as well-behaved ones do: it waits for `leave`, then answers what is open, then goes. */
async function testApp(port: number): Promise<TestApp> {
  const paths: string[] = [];
  const held: ServerResponse[] = [];
  let leave = (): void => {};
  let isAskedToEnd = false;
  const left = new Promise<void>((resolve) => {
    leave = resolve;
  });
  const server = createServer((request, response) => {
    paths.push(request.url ?? "");
    if (request.url === "/slow") held.push(response);
    else response.end("orders");
  });
  server.listen(port, "127.0.0.1");
  await once(server, "listening");
  return {
    paths,
    release: () => {
      for (const response of held.splice(0)) response.end("late");
    },
    get waiting() {
      return held.length;
    },
    leave,
    get isAskedToEnd() {
      return isAskedToEnd;
    },
    end: async () => {
      isAskedToEnd = true;
      await left;
      const closed = once(server, "close");
      server.close();
      server.closeIdleConnections();
      const sweep = setInterval(() => server.closeIdleConnections(), 20);
      await closed;
      clearInterval(sweep);
    },
  };
}

async function tried(nativeSidecars: boolean, more = ""): Promise<Tried> {
  const [appPort, inboundPort, adminPort, envoyHealth, healthPort] = await Promise.all(
    Array.from({ length: 5 }, () => freePort()),
  );
  const config = parseInjectorConfig(
    `
apiVersion: sallyport.dev/v1
kind: InjectorConfig
image: {repository: sallyport, tag: test}
healthPort: ${healthPort}
settings: {overload-delay: 10s}
envoy:
  inboundPort: ${inboundPort}
  adminPort: ${adminPort}
  healthPort: ${envoyHealth}
  tls: {secret: orders-tls, clientPrefix: "${PREFIX}"}
${more}`,
    "injector.yaml",
  );
  const bare: JsonObject = {
    metadata: { name: "orders-1", namespace: "shop" },
    spec: { containers: [{ name: "app", image: "orders", ports: [{ containerPort: appPort! }] }] },
  };
  const injection = injectPod(bare, config, { namespace: "shop", nativeSidecars });
  if (injection.kind !== "injected") throw new Error(injection.why);
  let app: TestApp | undefined;
  const pod = await runPod({
    pod: applyPatch(bare, injection.patch),
    objects: { "orders-tls": await secretOf("before.example") },
    app: async () => {
      app = await testApp(appPort!);
      return app;
    },
  });
  t.teardown(() => pod.remove());
  return {
    pod,
    app: app!,
    inboundPort: inboundPort!,
    adminPort: adminPort!,
    envoyHealth: envoyHealth!,
    caller: async (name) => ({
      port: inboundPort!,
      caPem: pki.caPem,
      certificate: await pki.issue({ spiffeId: `${PREFIX}${name}` }),
      serverName: "before.example",
    }),
  };
}

t.test("native sidecars", async (t) => {
  const { pod, app, inboundPort, adminPort, envoyHealth, caller } = await tried(true);

  await t.test("start one after the other, before the application", async (t) => {
    t.same(pod.started, ["sallyport", "sallyport-envoy", "app"]);
  });

  await t.test("a request with a client certificate reaches the application, judged and logged", async (t) => {
    const answer = await fetchOnce(await caller("web"), { path: "/orders?token=secret" });
    t.match(answer, { status: 200, body: "orders" });
    const entry = await eventually(async () => pod.lines("sallyport-envoy").find(({ path }) => path === "/orders"));
    t.match(entry, { code: 200, decision: "allow", principal: `${PREFIX}web`, peer: `${PREFIX}web`, mode: /./ });
    const logged = await eventually(async () =>
      pod.lines("sallyport").find((line) => line.decision_id === entry.decision_id),
    );
    t.match(logged.labels, { namespace: "shop", service_account: "default", node: "node-1", id: "shop/orders-1" });
  });

  await t.test("a caller without a certificate gets nowhere", async (t) => {
    await t.rejects(
      fetchOnce({ port: inboundPort, caPem: pki.caPem, serverName: "before.example" }, { path: "/none" }),
    );
    t.notOk(app.paths.includes("/none"));
  });

  await t.test("a certificate of another trust domain gets nowhere", async (t) => {
    const certificate = await pki.issue({ spiffeId: "spiffe://elsewhere.example/web" });
    await t.rejects(fetchOnce({ ...(await caller("web")), certificate }, { path: "/foreign" }));
    t.notOk(app.paths.includes("/foreign"));
  });

  await t.test("sockets are open to other users of the pod, and the API's is not", async (t) => {
    const mode = (name: string): number => statSync(pod.path("sallyport", `/run/sallyport/${name}`)).mode & 0o777;
    t.equal(mode("check.sock"), 0o666);
    t.equal(mode("streams.sock"), 0o666);
    t.equal(mode("api.sock"), 0o600);
  });

  const asRoot = skipUnless(process.getuid?.() === 0, "only root can act as another user", { obtainable: false });
  await t.test("Istio's user can connect to the socket, and not to the API's", asRoot, async (t) => {
    t.equal(await connectAs(1337, pod.path("sallyport", "/run/sallyport/check.sock")), "connected");
    t.equal(await connectAs(1337, pod.path("sallyport", "/run/sallyport/api.sock")), "EACCES");
  });

  await t.test("of Envoy's admin interface, which all of the pod reach, little is served", async (t) => {
    const status = async (target: string, method = "GET"): Promise<number> =>
      (await fetch(`http://127.0.0.1:${adminPort}${target}`, { method })).status;
    t.equal(await status("/ready"), 200);
    for (const target of ["/quitquitquit", "/healthcheck/fail", "/logging?level=trace", "/runtime_modify?a=b"]) {
      t.equal(await status(target, "POST"), 403, target);
    }
    t.equal(await status("/config_dump"), 403);
    t.equal(await status("/stats"), 403);
  });

  await t.test("the health port serves readiness and metrics, and nothing else", async (t) => {
    const answer = async (target: string): Promise<Response> => fetch(`http://127.0.0.1:${envoyHealth}${target}`);
    t.equal((await answer("/ready")).status, 200);
    t.match(await (await answer("/stats/prometheus?usedonly")).text(), /envoy_http_downstream_rq_total/);
    for (const target of ["/", "/config_dump", "/ready/../config_dump", "/stats", "/stats/prometheus/x"]) {
      t.equal((await answer(target)).status, 404, target);
    }
  });

  await t.test("a renewed certificate is served without a restart", async (t) => {
    t.equal(await servedName(await caller("web")), "before.example");
    await pod.renew("orders-tls", await secretOf("after.example"));
    const name = await eventually(async () => {
      const found = await servedName(await caller("web"));
      return found === "before.example" ? undefined : found;
    });
    t.equal(name, "after.example");
  });

  await t.test("at the end no request is lost, and no outcome", async (t) => {
    const open = fetchOnce(await caller("web"), { path: "/slow" });
    await eventually(async () => (app.waiting === 1 ? true : undefined));
    const ending = pod.end();
    await eventually(async () => (app.isAskedToEnd ? true : undefined));
    t.match(await fetchOnce(await caller("web"), { path: "/meanwhile" }), { status: 200 }, "before it is forgotten");
    app.leave();
    app.release();
    t.match(await open, { status: 200, body: "late" });
    await ending;
    t.same(pod.ended, ["app", "sallyport-envoy", "sallyport"]);
    const judged = pod.lines("sallyport-envoy").filter(({ type }) => type === "DownstreamEnd");
    for (const path of ["/slow", "/meanwhile"]) {
      t.match(
        judged.filter((entry) => entry.path === path),
        [{ code: 200, decision: "allow" }],
      );
    }
    t.match(pod.said("sallyport"), /"event":"stopped"/);
  });
});

t.test("classic containers", async (t) => {
  const { pod, app, caller } = await tried(false);

  await t.test("hold the application back until Sallyport and Envoy are ready", async (t) => {
    t.same(pod.started, ["sallyport", "sallyport-envoy", "app"]);
    t.match(await fetchOnce(await caller("web"), { path: "/first" }), { status: 200 });
  });

  await t.test("all told to end at once, they answer as long as the application does", async (t) => {
    const open = fetchOnce(await caller("web"), { path: "/slow" });
    await eventually(async () => (app.waiting === 1 ? true : undefined));
    const ending = pod.end();
    // Sallyport has had its SIGTERM by then, and Envoy its preStop.
    await eventually(async () => (pod.said("sallyport").includes('"event":"stopping"') ? true : undefined));
    t.match(await fetchOnce(await caller("web"), { path: "/meanwhile" }), { status: 200 });
    app.leave();
    app.release();
    t.match(await open, { status: 200, body: "late" });
    await ending;
    t.same(pod.ended, ["app", "sallyport-envoy", "sallyport"]);
    const entries = pod.lines("sallyport-envoy").filter(({ type }) => type === "DownstreamEnd");
    t.same(
      entries.map(({ decision }) => decision),
      ["allow", "allow", "allow"],
    );
  });
});

/** What a process of another user meets at a socket. */
async function connectAs(uid: number, path: string): Promise<string> {
  const program = `require("node:net").connect(process.argv[1]).on("connect", () => { console.log("connected"); process.exit(); }).on("error", (e) => console.log(e.code))`;
  const child = spawn(process.execPath, ["-e", program, path], {
    uid,
    gid: uid,
    cwd: "/",
    stdio: ["ignore", "pipe", "ignore"],
  });
  const parts: Buffer[] = [];
  for await (const part of child.stdout as AsyncIterable<Buffer>) parts.push(part);
  return Buffer.concat(parts).toString().trim();
}

/** The DNS name in the certificate that is served. */
async function servedName({ port, certificate }: Caller): Promise<string | undefined> {
  const socket = connect({
    port,
    host: "127.0.0.1",
    servername: "localhost",
    ca: pki.caPem,
    rejectUnauthorized: false,
    cert: certificate?.certPem,
    key: certificate?.keyPem,
  });
  await once(socket, "secureConnect");
  const name = /DNS:([^,]+)/.exec(socket.getPeerCertificate().subjectaltname ?? "")?.[1];
  socket.destroy();
  return name;
}
