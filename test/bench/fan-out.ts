/** Usage: tsx test/bench/fan-out.ts [SIDECARS]   Time and memory from a publish to a fleet that has verified it; Linux. */

import { type ChildProcess, fork, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { buildBundle } from "../../src/bundle/build.ts";
import { writeBundle } from "../../src/bundle/bundle-file.ts";
import { signBundle } from "../../src/bundle/sign.ts";
import { makeSigner, type Signer } from "../bundle/sync/bundles.ts";

const SIDECARS = Number(process.argv[2] ?? 1_000);
const PROCESSES = 4;
const RANGES = 200_000;
const STEP_MS_MAX = 600_000;
const MAIN = fileURLToPath(new URL("../../dist/main.js", import.meta.url));
const FLEET = fileURLToPath(new URL("./fan-out-fleet.ts", import.meta.url));
const TOKEN = { sidecar: "bench-sidecar-token", operator: "bench-operator-token" };

interface News {
  readonly what: "connected" | "verified" | "refused" | "failed";
  readonly value: number;
  readonly atMs: number;
}

interface Usage {
  readonly rssMiB: number;
  readonly peakMiB: number;
  readonly cpuSeconds: number;
}

const folder = await mkdtemp(join(tmpdir(), "sallyport-fan-out-"));
const children: ChildProcess[] = [];
process.once("exit", () => {
  for (const child of children) child.kill("SIGKILL");
});
try {
  await measure();
} finally {
  for (const child of children) child.kill("SIGKILL");
  await rm(folder, { recursive: true, force: true });
}

async function measure(): Promise<void> {
  const signer = makeSigner();
  await writeFile(join(folder, "keys.json"), signer.keyFile);
  await writeFile(join(folder, "sidecar.token"), TOKEN.sidecar);
  const tokens = Object.entries(TOKEN).map(
    ([role, token]) =>
      `  - { name: ${role}, sha256: ${createHash("sha256").update(token).digest("hex")}, roles: [${role}] }`,
  );
  await writeFile(join(folder, "tokens.yaml"), `tokens:\n${tokens.join("\n")}\n`);
  const control = await startControl();
  const pid = control.child.pid!;
  console.log(
    `${SIDECARS} sidecars in ${PROCESSES} processes, one control plane; ${cpus().length} CPUs, Node ${process.version}`,
  );
  console.log("| step | p50 ms | p99 ms | last ms | control CPU s | RSS MiB | peak MiB |");
  console.log("| --- | --- | --- | --- | --- | --- | --- |");
  let before = await usageOf(pid);
  console.log(`| idle | | | | | ${before.rssMiB} | ${before.peakMiB} |`);
  const news: News[] = [];
  for (let index = 0; index < PROCESSES; index++) {
    const first = Math.floor((index * SIDECARS) / PROCESSES);
    const count = Math.floor(((index + 1) * SIDECARS) / PROCESSES) - first;
    const child = fork(
      FLEET,
      [control.url, join(folder, "keys.json"), join(folder, "sidecar.token"), String(first), String(count)],
      { execArgv: ["--import=tsx"] },
    );
    child.on("message", (message) => void news.push(message as News));
    children.push(child);
  }
  await until(() => news.filter(({ what }) => what === "connected").length >= SIDECARS, news);
  let now = await usageOf(pid);
  row(`${SIDECARS} connected`, [], before, now);
  before = now;

  const ranges = Array.from({ length: RANGES }, (_, index) => {
    const n = Math.imul(index, 2_654_435_761) >>> 0;
    return `${n >>> 24}.${(n >>> 16) & 255}.${(n >>> 8) & 255}.${n & 255}/32`;
  });
  const small = (text: string): Map<string, Uint8Array> => new Map([["policy.yaml", Buffer.from(text)]]);
  const policy = (note: string): string =>
    `# ${note}\napiVersion: sallyport.dev/v1\nkind: Policy\nmetadata: { name: bench }\nspec: {}\n`;
  const large = (note: string, list: readonly string[]): Map<string, Uint8Array> =>
    new Map([...small(policy(note)), ["ranges.txt", Buffer.from(`${list.join("\n")}\n`)]]);
  const changed = ranges.toSpliced(RANGES / 2, 0, "192.0.2.1/32");
  const steps = [
    { name: "small policy, first", files: small(policy("one")) },
    { name: "small policy, changed", files: small(policy("two")) },
    { name: `${RANGES} ranges, first`, files: large("two", ranges) },
    { name: `${RANGES} ranges, one line changed`, files: large("two", changed) },
  ];
  for (const [index, { name, files }] of steps.entries()) {
    const revision = index + 1;
    const bundle = await bundleOf(signer, revision, files);
    news.length = 0;
    const begunMs = Date.now();
    await publish(control.url, bundle);
    await until(
      () => news.filter(({ what, value }) => what === "verified" && value === revision).length >= SIDECARS,
      news,
    );
    const times = news.filter(({ what }) => what === "verified").map(({ atMs }) => atMs - begunMs);
    now = await usageOf(pid);
    const odd = news.filter(({ what }) => what !== "verified").length;
    row(
      `${name} (${Math.round(bundle.length / 1024)} KiB)${odd > 0 ? `, ${odd} failures on the way` : ""}`,
      times,
      before,
      now,
    );
    before = now;
  }
}

async function startControl(): Promise<{ readonly url: string; readonly child: ChildProcess }> {
  const child = spawn(
    process.execPath,
    [
      ...[
        MAIN,
        "control",
        "--address",
        "127.0.0.1:0",
        "--health-address",
        "off",
        "--tokens",
        join(folder, "tokens.yaml"),
      ],
      ...["--bundle-keys", join(folder, "keys.json"), "--state-dir", join(folder, "state")],
    ],
    { stdio: ["ignore", "ignore", "pipe"] },
  );
  children.push(child);
  let said = "";
  for await (const text of child.stderr!.setEncoding("utf8")) {
    said += text;
    const line = said.split("\n").find((candidate) => candidate.includes('"event":"started"'));
    if (line !== undefined) {
      const { control } = JSON.parse(line) as { control: string };
      return { url: `http://${control}`, child };
    }
  }
  throw new Error(`control did not start:\n${said}`);
}

async function bundleOf(signer: Signer, revision: number, files: Map<string, Uint8Array>): Promise<Buffer> {
  const issuedAtMs = Date.now();
  const built = buildBundle({
    name: "bench",
    revision,
    issuedAtMs,
    expiresAtMs: issuedAtMs + 86_400_000,
    policy: "policy.yaml",
    files,
    roots: [],
    rootVersion: 1,
  });
  return Buffer.from(writeBundle(await signBundle(built, signer.key)));
}

async function publish(url: string, bundle: Buffer): Promise<void> {
  const response = await fetch(`${url}/sallyport.control.v1.FleetService/Publish`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${TOKEN.operator}` },
    body: JSON.stringify({ channel: "default", bundle: bundle.toString("base64") }),
  });
  if (!response.ok) throw new Error(`publish: ${response.status} ${await response.text()}`);
}

async function until(done: () => boolean, news: readonly News[]): Promise<void> {
  const begunMs = Date.now();
  while (!done()) {
    if (Date.now() - begunMs > STEP_MS_MAX) {
      const counts = new Map<string, number>();
      for (const { what } of news) counts.set(what, (counts.get(what) ?? 0) + 1);
      throw new Error(`waited in vain: ${[...counts].map(([what, count]) => `${count} ${what}`).join(", ")}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function usageOf(pid: number): Promise<Usage> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  const mib = (name: string): number => Math.round(Number(new RegExp(`${name}:\\s+(\\d+)`).exec(status)?.[1]) / 1024);
  const fields = (await readFile(`/proc/${pid}/stat`, "utf8")).split(") ")[1]!.split(" ");
  return { rssMiB: mib("VmRSS"), peakMiB: mib("VmHWM"), cpuSeconds: (Number(fields[11]) + Number(fields[12])) / 100 };
}

function row(name: string, times: number[], before: Usage, now: Usage): void {
  const sorted = times.toSorted((a, b) => a - b);
  const at = (share: number): number | string =>
    sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? "";
  const cpu = (now.cpuSeconds - before.cpuSeconds).toFixed(2);
  console.log(
    `| ${name} | ${at(0.5)} | ${at(0.99)} | ${sorted.at(-1) ?? ""} | ${cpu} | ${now.rssMiB} | ${now.peakMiB} |`,
  );
}
