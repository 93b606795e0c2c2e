import { join } from "node:path";
import t from "tap";
import { createPki } from "../../scripts/pki.ts";
import { eventually } from "../support/guarded.ts";
import { makeScene, startClient } from "./scene.ts";

const HOUR_MS = 3_600_000;

t.test("certificates are verified, and their SPIFFE IDs say what each may do", async (t) => {
  const scene = await makeScene(t);
  const config = await scene.file(
    "control.yaml",
    [
      `client-ca: ${join(scene.folder, "ca.pem")}`,
      "grants:",
      '  - { spiffe: "spiffe://shop.example/ns/*/sa/*", roles: [sidecar], labels: { env: prod } }',
      '  - { spiffe: "spiffe://shop.example/people/*", roles: [operator] }',
    ].join("\n"),
  );
  const control = await scene.control(["--config", config], { tls: true });
  t.equal((await control.fleet("publish", await scene.bundle({ revision: 1 }))).code, 0);
  const caFile = join(scene.folder, "ca.pem");
  const strangers = await createPki("strangers");
  const start = async (
    name: string,
    pki: typeof scene.pki,
    options: Parameters<typeof scene.pki.issue>[0],
    labels: Record<string, string> = { env: "prod" },
  ) => {
    const { certPem, keyPem } = await pki.issue(options);
    return startClient(t, scene, control.url, {
      sidecarId: name,
      labels,
      caFile,
      tokenFile: undefined,
      certFile: await scene.file(`${name}.pem`, certPem),
      keyFile: await scene.file(`${name}.key`, keyPem),
    });
  };
  const spiffeId = "spiffe://shop.example/ns/shop/sa/orders";
  const good = await start("good", scene.pki, { spiffeId });
  const expired = await start("expired", scene.pki, {
    spiffeId,
    notBefore: new Date(Date.now() - 2 * HOUR_MS),
    ttlMs: HOUR_MS,
  });
  const stranger = await start("stranger", strangers, { spiffeId });
  const elsewhere = await start("elsewhere", scene.pki, { spiffeId: "spiffe://other.example/ns/shop/sa/orders" });
  const test = await start("test", scene.pki, { spiffeId }, { env: "test" });
  const operator = await start("operator", scene.pki, { spiffeId: "spiffe://shop.example/people/ann" });
  await eventually(async () => (good.facts?.revision === 1 ? true : undefined));
  const refusals = [
    { client: expired, wanted: /Unauthenticated: the client certificate is not accepted: CERT_HAS_EXPIRED/ },
    { client: stranger, wanted: /Unauthenticated: the client certificate is not accepted/ },
    { client: elsewhere, wanted: /PermissionDenied/ },
    { client: test, wanted: /PermissionDenied/ },
    { client: operator, wanted: /PermissionDenied/ },
  ];
  for (const { client, wanted } of refusals) {
    t.match((await eventually(async () => client.errors[0])).message, wanted);
    t.equal(client.facts, undefined);
  }
});

t.test("a sidecar does not speak with a server that another authority vouches for", async (t) => {
  const scene = await makeScene(t);
  const control = await scene.control([], { tls: true });
  const caFile = await scene.file("strangers.pem", (await createPki("strangers")).caPem);
  const client = startClient(t, scene, control.url, { caFile });
  t.match(await eventually(async () => client.errors[0]), { code: "ERR_BUNDLE_UNREACHABLE" });
});

t.test("a new certificate of the server is used without a restart", async (t) => {
  const scene = await makeScene(t);
  const control = await scene.control([], { tls: true });
  const issued = await scene.pki.issue({ dns: ["localhost"], ips: ["127.0.0.1"] });
  await scene.file("server.pem", "half-written");
  await eventually(async () => (control.log().includes('"event":"tls.refused"') ? true : undefined));
  t.equal((await control.fleet("channels")).code, 0, "the last good one stays");
  await scene.file("server.key", issued.keyPem);
  await scene.file("server.pem", issued.certPem);
  await eventually(async () => (control.log().includes('"event":"tls.read"') ? true : undefined));
  t.equal((await control.fleet("channels")).code, 0);
});
