import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { command } from "../support/command.ts";

const folder = mkdtempSync(join(tmpdir(), "sallyport-inject-"));
t.teardown(() => rmSync(folder, { recursive: true, force: true }));

function file(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

const POD = `apiVersion: v1
kind: Pod
metadata:
  name: orders # ours
spec:
  containers:
  - name: app
    ports:
    - containerPort: 8080
`;
const pod = file("pod.yaml", POD);
const service = file("service.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: orders}\n");
const host = file("host.yaml", POD.replace("spec:\n", "spec:\n  hostNetwork: true\n"));

t.test("manifests go to standard output, a line for each object to standard error", async (t) => {
  const { code, out, err } = await command(["inject", "-f", service, "-f", pod]);
  t.equal(code, 0);
  t.ok(out.startsWith(`${readFileSync(service, "utf8")}---\napiVersion: v1\nkind: Pod\n`));
  t.match(out, /image: ghcr\.io\/sallyport\/sallyport:\d/);
  t.equal(err, "Service orders: left as it is: it describes no pod\nPod orders: injected\n");
});

t.test("uninject gives the text back", async (t) => {
  const injected = file("injected.yaml", (await command(["inject", "--filename", pod])).out);
  const { code, out, err } = await command(["uninject", "-f", injected]);
  t.equal(code, 0);
  t.equal(out, POD);
  t.equal(err, "Pod orders: as it was\n");
});

t.test("where one object is refused nothing is written, and the status is 1", async (t) => {
  const { code, out, err } = await command(["inject", "-f", pod, "-f", host]);
  t.equal(code, 1);
  t.equal(out, "");
  t.match(err, /^Pod orders: injected\nPod orders: refused: hostNetwork: /);
});

t.test("what cannot be read is told with its place", async (t) => {
  const { code, out, err } = await command(["inject", "-f", file("torn.yaml", "a: [\n")]);
  t.equal(code, 1);
  t.equal(out, "");
  t.match(err, /torn\.yaml:2:1: expected valid YAML/);
});

t.test("a configuration says what is added", async (t) => {
  const config = file(
    "injector.yaml",
    "apiVersion: sallyport.dev/v1\nkind: InjectorConfig\nimage: {repository: mine, tag: t}\nenvoy: {mode: none}\n",
  );
  const { code, out } = await command(["inject", "--injector-config", config, "-f", pod]);
  t.equal(code, 0);
  t.match(out, /image: mine:t/);
  t.notMatch(out, /sallyport-envoy/);
});

t.test("a bad configuration is told whole, before any manifest", async (t) => {
  const config = file(
    "bad.yaml",
    "apiVersion: sallyport.dev/v1\nkind: InjectorConfig\nimage: {repository: mine}\nmode: x\n",
  );
  const { code, out, err } = await command(["inject", "--injector-config", config, "-f", pod]);
  t.equal(code, 1);
  t.equal(out, "");
  t.match(err, /bad\.yaml:3:8 image: [\s\S]*bad\.yaml:4:7 mode: /);
});

t.test("a file that is not there, a folder, or an unknown flag is wrong usage", async (t) => {
  t.equal((await command(["inject", "-f", join(folder, "none.yaml")])).code, 2);
  t.equal((await command(["inject", "-f", folder])).code, 2);
  t.equal((await command(["inject", "--injector-config", join(folder, "none.yaml"), "-f", pod])).code, 2);
  t.equal((await command(["inject", "--file", pod])).code, 2);
  t.equal((await command(["uninject", pod])).code, 2);
});

t.test("--output json tells the same as JSON lines", async (t) => {
  const { err } = await command(["inject", "--output", "json", "-f", pod]);
  t.same(JSON.parse(err), { object: "Pod orders", kind: "changed", why: "", warnings: [] });
});

t.test("warnings are told beside what was done", async (t) => {
  const exposed = file("exposed.yaml", POD.replace("containerPort: 8080", "{containerPort: 8080, hostPort: 80}"));
  const { code, err } = await command(["inject", "-f", exposed]);
  t.equal(code, 0);
  t.match(err, /^Pod orders: injected\nPod orders: warning: hostPort 80 of container app leads past Envoy\n$/);
});

t.test("standard input is read where no file is given, as a Helm post-renderer is run", async (t) => {
  const main = fileURLToPath(new URL("../../dist/main.js", import.meta.url));
  const child = spawn(process.execPath, [main, "inject"], { stdio: ["pipe", "pipe", "ignore"] });
  child.stdin.end(POD);
  const parts: Buffer[] = [];
  child.stdout.on("data", (part: Buffer) => parts.push(part));
  const [code] = (await once(child, "close")) as [number];
  t.equal(code, 0);
  t.equal(Buffer.concat(parts).toString(), (await command(["inject", "-f", pod])).out);
});

for (const { name, bytes, got } of [
  { name: "UTF-16", bytes: Buffer.from(`\ufeff${POD}`, "utf16le"), got: "UTF-16, as PowerShell writes it" },
  { name: "Latin-1", bytes: Buffer.from(POD.replace("ours", "Z\u00fcrich"), "latin1"), got: "other bytes" },
]) {
  t.test(`${name} is refused, not repaired`, async (t) => {
    const path = join(folder, `${name}.yaml`);
    writeFileSync(path, bytes);
    const { code, out, err } = await command(["inject", "-f", path]);
    t.equal(code, 1);
    t.equal(out, "");
    t.equal(err, `sallyport inject: ${path}: expected text in UTF-8, got ${got} (ERR_CONFIG_INVALID)\n`);
  });
}

t.test("a file that cannot be read is named with what kept it from being read", async (t) => {
  const { code, err } = await command(["inject", "-f", folder]);
  t.equal(code, 2);
  t.equal(err, `sallyport inject: ${folder}: expected a file that can be read, got EISDIR (ERR_USAGE)\n`);
  t.match((await command(["inject", "-f", pod, "--injector-config", join(folder, "none")])).err, "got ENOENT");
});

/** The command as a shell starts it, between a file and whatever reads it. */
async function shell(line: string): Promise<{ readonly code: number | null; readonly err: string }> {
  const main = fileURLToPath(new URL("../../dist/main.js", import.meta.url));
  const child = spawn("/bin/sh", ["-c", line], {
    env: { ...process.env, SALLYPORT: `${process.execPath} ${main}` },
    stdio: ["ignore", "ignore", "pipe"],
  });
  let err = "";
  child.stderr.setEncoding("utf8").on("data", (piece: string) => {
    err += piece;
  });
  const [code] = (await once(child, "close")) as [number | null];
  return { code, err };
}

t.test("a result that cannot be written is no success", { skip: !existsSync("/dev/full") }, async (t) => {
  const { code, err } = await shell(`$SALLYPORT inject -f ${pod} > /dev/full`);
  t.equal(code, 1);
  t.match(err, "standard output: expected to write all of it, got ENOSPC");
});

t.test("what stands on standard error is ours alone, and quotes no manifest", async (t) => {
  const odd = file("odd.yaml", POD.replace("metadata:", "? [hunter2]\n: x\nmetadata:"));
  t.same(await shell(`$SALLYPORT inject -f ${odd}`), { code: 0, err: "Pod orders: injected\n" });
});

t.test("a result is whole though nobody reads the remarks", async (t) => {
  const many = file("many.yaml", `---\n${POD}`.repeat(400));
  const whole = join(folder, "whole.yaml");
  const { code } = await shell(`{ $SALLYPORT inject -f ${many} 2>&1 >${whole}; echo $? >${whole}.code; } | head -1`);
  t.equal(code, 0);
  t.equal(readFileSync(`${whole}.code`, "utf8"), "0\n");
  t.equal(readFileSync(whole, "utf8").match(/^kind: Pod$/gm)?.length, 400);
});
