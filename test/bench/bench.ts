/** Usage: npm run bench [-- --quick] [--json FILE]   Cost of a check beside a bare server's, in one run; memory; look-ups. */

import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { BlockList } from "node:net";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs, promisify } from "node:util";
import { startSidecarProcess } from "../../scripts/demo/sidecar.ts";
import { readRange } from "../../src/bundle/address.ts";
import { buildAddressLists } from "../../src/bundle/ranges.ts";

const { values } = parseArgs({ options: { quick: { type: "boolean", default: false }, json: { type: "string" } } });
const ROUNDS = values.quick ? 2 : 5;
const SECONDS = values.quick ? 1.5 : 4;
const HERE = fileURLToPath(new URL(".", import.meta.url));
/** Of Linux's /proc: clock ticks a second, and bytes a page. */
const TICKS_PER_SECOND = 100;
const PAGE_BYTES = 4096;

const run = promisify(execFile);
const tsx = (script: string, ...args: string[]) => run(process.execPath, ["--import=tsx", join(HERE, script), ...args]);

interface Target {
  readonly name: string;
  readonly address: string;
  readonly pid: number;
  readonly cpuUs: number[];
  readonly perSecond: number[];
}

const folder = await mkdtemp(join(tmpdir(), "sallyport-bench-"));
const children: ChildProcess[] = [];
try {
  console.log(
    `${cpus().length} x ${cpus()[0]?.model}, Node ${process.version}, ${ROUNDS} rounds of ${SECONDS} s each\n`,
  );
  const checks = await compareServers();
  const line = await measureLine();
  const memory = await measureMemory();
  const lists = measureLists();
  if (values.json !== undefined) {
    await writeFile(values.json, `${JSON.stringify({ checks, line, memory, lists }, undefined, 1)}\n`);
  }
} finally {
  for (const child of children) child.kill();
  await rm(folder, { recursive: true, force: true });
}

/** Servers take turns, round by round, so that whatever else the machine does hits all alike. */
async function compareServers() {
  const sidecar = await startSidecarProcess({ name: "bench", folder, flags: ["--log-level", "info"] });
  const targets: Target[] = [
    await bareServer("allow-all, bytes unread"),
    await bareServer("allow-all, decoding", "decode"),
    { name: "sallyport serve", address: sidecar.extAuthz, pid: sidecar.pid, cpuUs: [], perSecond: [] },
  ];
  for (let round = -1; round < ROUNDS; round++) {
    for (const target of targets) {
      const before = await cpuTicks(target.pid);
      const { stdout } = await tsx("load.ts", target.address, "10", String(round < 0 ? 1 : SECONDS));
      const { sent, failed } = JSON.parse(stdout) as { sent: number; failed: number };
      if (failed > 0) throw new Error(`${target.name}: ${failed} of ${sent} checks failed`);
      if (round < 0) continue; // warming up
      target.cpuUs.push((((await cpuTicks(target.pid)) - before) / TICKS_PER_SECOND / sent) * 1e6);
      target.perSecond.push(sent / SECONDS);
    }
  }
  await sidecar.stop();
  const base = median(targets[0]!.cpuUs);
  const result = targets.map(({ name, cpuUs, perSecond }) => ({
    name,
    checksPerSecond: Math.round(median(perSecond)),
    cpuUsPerCheck: Math.round(median(cpuUs)),
    ratio: Math.round((median(cpuUs) / base) * 100) / 100,
  }));
  console.log("server                     checks/s   CPU us/check   against bare");
  for (const one of result) {
    console.log(
      `${one.name.padEnd(26)} ${String(one.checksPerSecond).padStart(8)} ${String(one.cpuUsPerCheck).padStart(14)} ${one.ratio.toFixed(2).padStart(14)}`,
    );
  }
  return result;
}

async function measureLine() {
  const result = [];
  console.log("\nscoring and learning alone     CPU us/request");
  for (const principals of [10, 10_000]) {
    const { stdout } = await tsx("line.ts", String(principals), values.quick ? "50000" : "300000");
    const { microseconds } = JSON.parse(stdout) as { microseconds: number };
    result.push({ principals, microseconds });
    console.log(`${`${principals} principals`.padEnd(30)} ${microseconds.toFixed(1).padStart(14)}`);
  }
  return result;
}

async function measureMemory() {
  const result = [];
  console.log("\nresident memory of serve       MiB");
  for (const principals of [10, 10_000]) {
    const sidecar = await startSidecarProcess({
      name: `memory-${principals}`,
      folder,
      flags: ["--principals-max", "20000"],
    });
    // Twenty requests make a caller established; the newcomers' room is smaller.
    for (let round = 0; round < (values.quick ? 1 : 4); round++) {
      await tsx("load.ts", sidecar.extAuthz, String(principals), values.quick ? "6" : "20");
    }
    const mebibytes = Math.round((await residentBytes(sidecar.pid)) / 2 ** 20);
    const known = Number(
      /sallyport_principals (\d+)/.exec(await (await fetch(`http://${sidecar.health}/metrics`)).text())?.[1],
    );
    await sidecar.stop();
    result.push({ principals: known, mebibytes });
    console.log(`${`${known} principals`.padEnd(30)} ${String(mebibytes).padStart(4)}`);
  }
  return result;
}

function measureLists() {
  const ranges = Array.from({ length: 100_000 }, (_, i) =>
    i % 2 === 0
      ? `${(i % 200) + 1}.${(i >> 8) & 255}.${i & 255}.0/24`
      : `2001:${(i & 0xffff).toString(16)}:${(i >> 4).toString(16)}::/48`,
  );
  const hit = { list: "bench", action: "score", bits: 5, reason: "bench" } as const;
  const lists = buildAddressLists(ranges.map((text) => ({ range: readRange(text)!, hit })));
  const few = new BlockList();
  for (const range of ranges.slice(0, 1_000)) {
    const [address = "", prefix = "24"] = range.split("/");
    few.addSubnet(address, Number(prefix), address.includes(":") ? "ipv6" : "ipv4");
  }
  const nanoseconds = (look: (address: string) => unknown, addresses: readonly string[]): number => {
    const times = values.quick ? 200_000 : 1_000_000;
    for (let i = 0; i < 20_000; i++) look(addresses[i % addresses.length]!);
    const before = process.hrtime.bigint();
    for (let i = 0; i < times; i++) look(addresses[i % addresses.length]!);
    return Math.round(Number(process.hrtime.bigint() - before) / times);
  };
  const four = Array.from({ length: 1_000 }, (_, i) => `${(i % 220) + 1}.${i & 255}.${(i * 7) & 255}.9`);
  const six = Array.from(
    { length: 1_000 },
    (_, i) => `2001:${((i * 31) & 0xffff).toString(16)}:${(i >> 3).toString(16)}::1`,
  );
  const result = {
    ipv4Ns: nanoseconds((address) => lists.lookup(address), four),
    ipv6Ns: nanoseconds((address) => lists.lookup(address), six),
    blockListIpv4Ns: nanoseconds((address) => few.check(address, "ipv4"), four.slice(0, 50)),
  };
  console.log("\naddress look-up                              ns");
  console.log(`100,000 ranges, IPv4 ${String(result.ipv4Ns).padStart(25)}`);
  console.log(`100,000 ranges, IPv6 ${String(result.ipv6Ns).padStart(25)}`);
  console.log(`node:net BlockList, 1,000 ranges, IPv4 ${String(result.blockListIpv4Ns).padStart(7)}`);
  return result;
}

async function bareServer(name: string, ...args: string[]): Promise<Target> {
  const child = spawn(process.execPath, ["--import=tsx", join(HERE, "allow-all.ts"), ...args], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  children.push(child);
  const [line] = (await once(child.stdout!, "data")) as [Buffer];
  const { port } = JSON.parse(line.toString()) as { port: number };
  return { name, address: `127.0.0.1:${port}`, pid: child.pid!, cpuUs: [], perSecond: [] };
}

/** User and system time of a process so far; fields 14 and 15 of /proc/PID/stat. */
async function cpuTicks(pid: number): Promise<number> {
  const fields = (await readFile(`/proc/${pid}/stat`, "utf8")).split(") ")[1]!.split(" ");
  return Number(fields[11]) + Number(fields[12]);
}

async function residentBytes(pid: number): Promise<number> {
  return Number((await readFile(`/proc/${pid}/statm`, "utf8")).split(" ")[1]) * PAGE_BYTES;
}

function median(numbers: readonly number[]): number {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}
