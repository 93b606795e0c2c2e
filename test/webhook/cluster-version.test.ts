import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t, { type Test } from "tap";
import { createPki } from "../../scripts/pki.ts";
import { listen } from "../../scripts/services/service.ts";
import type { OperatingError } from "../../src/model/errors.ts";
import {
  ClusterVersion,
  inClusterVersion,
  type KubernetesVersion,
  parseVersion,
  supportsNative,
} from "../../src/webhook/cluster-version.ts";

const versions = [
  { said: { major: "1", minor: "28", gitVersion: "v1.28.15" }, native: false },
  { said: { major: "1", minor: "28+", gitVersion: "v1.28.9-eks-036c24b" }, native: false },
  { said: { major: "1", minor: "29", gitVersion: "v1.29.0" }, native: true },
  { said: { major: "1", minor: "29+", gitVersion: "v1.29.4-gke.1043004" }, native: true },
  { said: { major: "1", minor: "34", gitVersion: "v1.34.2" }, native: true },
  { said: { major: "2", minor: "0", gitVersion: "v2.0.0" }, native: true },
];
for (const { said, native } of versions) {
  t.test(`${said.gitVersion} ${native ? "has" : "has no"} native sidecars`, async (t) => {
    const version = parseVersion(JSON.stringify(said), "here");
    t.equal(version.text, said.gitVersion);
    t.equal(supportsNative(version), native);
  });
}

for (const body of ["", "[]", "null", "{}", '{"major":"","minor":""}', '{"major":"one","minor":"29"}', "<html>"]) {
  t.test(`${JSON.stringify(body)} is no version`, async (t) => {
    t.throws(() => parseVersion(body, "here"), { code: "ERR_API", message: /^here: expected major and minor/ });
  });
}

const V28: KubernetesVersion = { major: 1, minor: 28, text: "v1.28.0" };
const V34: KubernetesVersion = { major: 1, minor: 34, text: "v1.34.2" };

/** Answers in order; the last one for ever. */
function scripted(t: Test, answers: readonly (KubernetesVersion | Error)[]) {
  const heard: string[] = [];
  const failures: OperatingError[] = [];
  let asked = 0;
  const version = new ClusterVersion({
    ask: async () => {
      const answer = answers[Math.min(asked++, answers.length - 1)]!;
      if (answer instanceof Error) throw answer;
      return answer;
    },
    onVersion: ({ text }) => heard.push(text),
    onFailure: (error) => failures.push(error),
  });
  t.teardown(() => version.close());
  return { version, heard, failures, asked: () => asked };
}

t.test("before the version is heard, ordinary containers are injected, with a word on why", async (t) => {
  const { version, failures } = scripted(t, [new Error("nothing listens")]);
  t.match(version.native, { supported: false, doubt: /not known yet: injected as ordinary containers/ });
  await version.start();
  t.match(version.native, { supported: false, doubt: /not known yet/ });
  t.match(failures, [{ code: "ERR_API" }]);
});

t.test("once it is heard it decides without doubts", async (t) => {
  const newer = scripted(t, [V34]);
  await newer.version.start();
  t.same(newer.version.native, { supported: true, doubt: undefined });
  t.same(newer.heard, ["v1.34.2"]);
  const older = scripted(t, [V28]);
  await older.version.start();
  t.same(older.version.native, { supported: false, doubt: undefined });
});

t.test("it is asked for once, however often it is wanted", async (t) => {
  const { version, asked } = scripted(t, [V34]);
  await Promise.all([version.start(), version.start()]);
  await version.start();
  t.equal(asked(), 1);
});

const pki = await createPki();
const issued = await pki.issue({ ips: ["127.0.0.1"] });

/** An API server that knows its version, and keeps what it was shown. */
async function apiServer(t: Test, answer: { readonly status: number; readonly body: string }) {
  const shown: (string | undefined)[] = [];
  const server = createServer({ cert: issued.certPem, key: issued.keyPem }, ({ headers, url }, response) => {
    shown.push(headers.authorization);
    response.writeHead(url === "/version" ? answer.status : 404).end(answer.body);
  });
  const port = await listen(server, 0);
  t.teardown(() => server.close());
  const folder = await mkdtemp(join(tmpdir(), "sallyport-account-"));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  await writeFile(join(folder, "ca.crt"), pki.caPem);
  const environment = { KUBERNETES_SERVICE_HOST: "127.0.0.1", KUBERNETES_SERVICE_PORT: String(port) };
  return { shown, folder, environment };
}

const GOOD = { status: 200, body: JSON.stringify({ major: "1", minor: "34", gitVersion: "v1.34.2" }) };

t.test("the API server is asked with the token that is there at that time", async (t) => {
  const { shown, folder, environment } = await apiServer(t, GOOD);
  const ask = inClusterVersion(environment, folder);
  t.same(await ask(), V34);
  await writeFile(join(folder, "token"), "first\n");
  t.same(await ask(), V34);
  await writeFile(join(folder, "token"), "second");
  t.same(await ask(), V34);
  t.same(shown, [undefined, "Bearer first", "Bearer second"]);
});

t.test("what goes wrong is told by address and never by token", async (t) => {
  const { folder, environment } = await apiServer(t, { status: 403, body: "{}" });
  await writeFile(join(folder, "token"), "secret-token");
  const where = `https://127.0.0.1:${environment.KUBERNETES_SERVICE_PORT}/version`;
  await t.rejects(inClusterVersion(environment, folder)(), {
    code: "ERR_API",
    message: `${where}: expected 200, got 403`,
  });
  await writeFile(join(folder, "ca.crt"), (await createPki("another")).caPem);
  await t.rejects(inClusterVersion(environment, folder)(), {
    code: "ERR_API",
    message: /expected an answer, got (?:UNABLE_TO_VERIFY_LEAF_SIGNATURE|CERT_SIGNATURE_FAILURE|SELF_SIGNED\w*)/,
  });
  await rm(join(folder, "ca.crt"));
  await t.rejects(inClusterVersion(environment, folder)(), { code: "ERR_API", message: /ca\.crt: expected/ });
});

t.test("an answer without end is not read to its end", async (t) => {
  const { folder, environment } = await apiServer(t, { status: 200, body: `"${"x".repeat(1024 * 1024)}"` });
  await t.rejects(inClusterVersion(environment, folder)(), { code: "ERR_API" });
});

t.test("outside a cluster there is nobody to ask", async (t) => {
  await t.rejects(inClusterVersion({})(), { code: "ERR_API", message: /set always or never elsewhere/ });
});
