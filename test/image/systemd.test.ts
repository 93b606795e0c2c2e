import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { findEnvoy } from "../../scripts/find-envoy.ts";
import { readConfig } from "../../src/server/config.ts";
import { readConfigFile } from "../../src/server/config-file.ts";
import { makeCertDir } from "../support/envoy.ts";
import { skipUnless } from "../support/skip.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const read = (name: string): string => readFileSync(join(ROOT, name), "utf8");
const UNITS = ["sallyport.service", "sallyport-envoy.service"] as const;
const GUIDE = read("docs/install.md");

/** Values by key, in order: a key that is given twice adds to the first. */
function parseUnit(text: string): ReadonlyMap<string, readonly string[]> {
  const values = new Map<string, string[]>();
  let section = "";
  for (const [index, line] of text.split("\n").entries()) {
    if (/^\s*(?:[#;]|$)/.test(line)) continue;
    const [, heading] = /^\[(\w+)\]$/.exec(line) ?? [];
    const [, key, value] = /^(\w+)=(.*)$/.exec(line) ?? [];
    if (heading !== undefined) section = heading;
    else if (key === undefined || section === "") throw new Error(`line ${index + 1}: expected KEY=VALUE, got ${line}`);
    else values.set(`${section}.${key}`, [...(values.get(`${section}.${key}`) ?? []), value as string]);
  }
  return values;
}

const unit = parseUnit(read("packaging/systemd/sallyport.service"));
const envoyUnit = parseUnit(read("packaging/systemd/sallyport-envoy.service"));
const one = (of: typeof unit, key: string): string | undefined => of.get(`Service.${key}`)?.join(" ");

const HARDENED: Readonly<Record<string, string>> = {
  DynamicUser: "yes",
  NoNewPrivileges: "yes",
  CapabilityBoundingSet: "",
  AmbientCapabilities: "",
  ProtectSystem: "strict",
  ProtectHome: "yes",
  PrivateTmp: "yes",
  PrivateDevices: "yes",
  ProtectKernelTunables: "yes",
  ProtectKernelModules: "yes",
  ProtectKernelLogs: "yes",
  ProtectControlGroups: "yes",
  ProtectClock: "yes",
  ProtectHostname: "yes",
  RestrictNamespaces: "yes",
  RestrictSUIDSGID: "yes",
  RestrictRealtime: "yes",
  LockPersonality: "yes",
  SystemCallArchitectures: "native",
  Restart: "on-failure",
  Type: "exec",
};

for (const [name, of] of [
  ["Sallyport", unit],
  ["Envoy", envoyUnit],
] as const) {
  t.test(`${name}'s unit gives away nothing that it need not`, async (t) => {
    for (const [key, value] of Object.entries(HARDENED)) t.equal(one(of, key), value, key);
    t.match(one(of, "SystemCallFilter"), /^@system-service .*~@privileged/);
    t.match(one(of, "RestrictAddressFamilies"), /^AF_UNIX AF_INET AF_INET6/);
    // V8 and WebAssembly compile while they run: with it, the process dies at its start.
    t.equal(one(of, "MemoryDenyWriteExecute"), "no");
  });
}

t.test("Sallyport's unit lets its threads lower their priority, after all that it takes away", async (t) => {
  t.equal(unit.get("Service.SystemCallFilter")?.at(-1), "setpriority");
});

t.test("both units mean the same sockets and the same group", async (t) => {
  const group = one(unit, "Group");
  t.equal(one(envoyUnit, "SupplementaryGroups"), group);
  t.match(read("packaging/systemd/sallyport.sysusers.conf"), new RegExp(`^g ${group} -$`, "m"));
  // A made-up user takes the unit's name: systemd refuses to make it where a lasting group has that name already.
  for (const name of UNITS) t.not(group, name.replace(".service", ""));
  t.equal(one(unit, "RuntimeDirectoryMode"), "0750", "nobody else reaches the sockets");
  t.equal(one(unit, "StateDirectoryMode"), "0700");
});

t.test("the settings that the unit names are good, and keep to the unit's folders", async (t) => {
  const file = { name: "sallyport.yaml", text: read("packaging/systemd/sallyport.yaml") };
  const config = readConfig({ flags: {}, environment: {}, file: readConfigFile(file) });
  t.equal(config.ok, true, JSON.stringify(config));
  if (!config.ok) return;
  t.equal(one(unit, "ExecStart"), "/usr/local/bin/sallyport serve --config /etc/sallyport/sallyport.yaml");
  t.equal(config.config.stateDir, `/var/lib/${one(unit, "StateDirectory")}`);
  for (const place of ["check.sock", "streams.sock", "api.sock"]) {
    t.match(file.text, `/run/${one(unit, "RuntimeDirectory")}/${place}`);
  }
  t.match(file.text, /^mode: observe$/m, "and it begins by watching");
  t.match(file.text, /^health-address: 127\.0\.0\.1:8282$/m);
});

const analyzer = spawnSync("systemd-analyze", ["--version"], { encoding: "utf8" });
const systemd = skipUnless(analyzer.status === 0, "systemd-analyze comes with systemd", { obtainable: false });

t.test("systemd takes the units, and knows every word in them", systemd, async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "sallyport-units-"));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  for (const name of UNITS) {
    // The programs are not installed here; what else the unit says is judged as it is.
    const text = read(`packaging/systemd/${name}`).replaceAll(/\/usr\/local\/bin\/(?:sallyport|envoy)/g, "/bin/true");
    await writeFile(join(folder, name), text);
    await writeFile(join(folder, `bad-${name}`), text.replace("ProtectHome=", "ProtectHomes="));
  }
  const verify = (name: string) =>
    spawnSync("systemd-analyze", ["verify", join(folder, name)], { encoding: "utf8" }).stderr;
  for (const name of UNITS) {
    t.equal(verify(name).includes(folder) || verify(name).includes(name), false, verify(name));
    t.match(verify(`bad-${name}`), /ProtectHomes/, "it would tell of a word that it does not know");
  }
});

for (const name of UNITS) {
  t.test(`systemd counts ${name} among what is well guarded`, systemd, async (t) => {
    const args = ["security", "--offline=true", "--threshold=20", join(ROOT, "packaging/systemd", name)];
    const judged = spawnSync("systemd-analyze", args, {
      encoding: "utf8",
      env: { ...process.env, SYSTEMD_COLORS: "0" },
    });
    t.match(judged.stdout, /Overall exposure level for [\w-]+\.service: [01]\.\d OK/);
    t.equal(judged.status, 0);
  });
}

t.test("the guide's command turns a shipped configuration to the sockets, and Envoy takes it", async (t) => {
  const [command] = /^sed [\s\S]*?> \/etc\/sallyport\/envoy\.yaml$/m.exec(GUIDE) ?? [];
  const folder = await mkdtemp(join(tmpdir(), "sallyport-vm-"));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const certs = await makeCertDir();
  t.teardown(() => certs.remove());
  const local = (command ?? "")
    .replace("$package/", ROOT)
    .replace("/etc/sallyport/envoy.yaml", join(folder, "envoy.yaml"));
  execFileSync("sh", ["-euc", local]);
  const text = readFileSync(join(folder, "envoy.yaml"), "utf8");
  t.same(text.match(/pipe: \{path: [^}]*\}/g), [
    "pipe: {path: /run/sallyport/check.sock}",
    "pipe: {path: /run/sallyport/streams.sock}",
  ]);
  t.notMatch(text, /port_value: 919/);
  await writeFile(join(folder, "envoy.yaml"), text.replaceAll("filename: certs/", `filename: ${certs.path}/`));
  const { path } = await findEnvoy({ install: true });
  const judged = spawnSync(path, ["--mode", "validate", "--config-path", join(folder, "envoy.yaml")], {
    encoding: "utf8",
  });
  t.equal(judged.status, 0, judged.stderr);
});

t.test("the guide names files that are there", async (t) => {
  const named = [...GUIDE.matchAll(/\$package\/([\w./-]+)/g)].map((match) => match[1] as string);
  t.ok(named.length >= 5);
  for (const name of named) t.doesNotThrow(() => read(name), name);
  const links = [...GUIDE.matchAll(/\]\((?!https?:|#)([^)#]+)/g)].map((match) => match[1] as string);
  for (const link of links) t.doesNotThrow(() => readFileSync(join(ROOT, "docs", link)), link);
});
