import { execFile } from "node:child_process";
import { mkdtemp, readdir, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import t from "tap";
import { findEnvoy } from "../../scripts/find-envoy.ts";
import { createIssuer } from "../../scripts/pki.ts";
import { readConfig } from "../../scripts/run-envoy.ts";
import { command } from "../support/command.ts";
import { makeCertDir } from "../support/envoy.ts";

const FOLDER = fileURLToPath(new URL("../../envoy/", import.meta.url));
const run = promisify(execFile);
const { path: envoy } = await findEnvoy({ install: true });
const certs = await makeCertDir(await createIssuer("https://issuer.example"));
const folder = await mkdtemp(join(tmpdir(), "sallyport-validate-"));
await symlink(certs.path, join(folder, "certs")); // the files name `certs/`, as a user has it beside them
t.teardown(async () => {
  await certs.remove();
  await rm(folder, { recursive: true, force: true });
});

const names = (await readdir(FOLDER)).filter((name) => name.endsWith(".yaml"));

t.test("all topologies are there", async (t) => {
  t.same(names.sort(), ["behind-proxy.yaml", "grpc.yaml", "http-mtls.yaml", "jwt.yaml", "tcp-held.yaml", "tcp.yaml"]);
});

for (const name of names) {
  t.test(`Envoy and the doctor find ${name} good as it is`, async (t) => {
    const { stdout, stderr } = await run(envoy, ["--mode", "validate", "-c", `${FOLDER}${name}`], { cwd: folder });
    t.match(stdout + stderr, /OK/);
    const { code, out } = await command([
      "doctor",
      "--offline",
      "--envoy-config",
      `${FOLDER}${name}`,
      "--output",
      "json",
    ]);
    t.equal(code, 0, out);
    const findings = JSON.parse(out) as { level: string; message: string }[];
    t.same(
      findings.filter(({ level }) => level !== "good").map(({ message }) => message),
      [],
    );
  });
}

t.test("the doctor sees what makes a configuration blind, spoofable, or fail the wrong way", async (t) => {
  const config = await readConfig("envoy/http-mtls.yaml", {});
  const broken = JSON.parse(
    JSON.stringify(config)
      .replaceAll('"failure_mode_allow":false', '"failure_mode_allow":true')
      .replaceAll("remove_on_match", "removed_on_match")
      .replaceAll('"enable_ja4_fingerprinting":true', '"enable_ja4_fingerprinting":false')
      .replaceAll("HttpGrpcAccessLogConfig", "Other"),
  );
  const file = join(folder, "broken.json");
  await writeFile(file, JSON.stringify(broken));
  const { code, out } = await command(["doctor", "--offline", "--envoy-config", file]);
  t.equal(code, 1);
  for (const wanted of [/every caller passes/, /can be spoofed/, /fingerprints are not seen/, /see nothing/])
    t.match(out, wanted);
});
