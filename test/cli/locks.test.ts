import { createHash, X509Certificate } from "node:crypto";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { startSidecarProcess } from "../../scripts/demo/sidecar.ts";
import { createPki } from "../../scripts/pki.ts";
import { type CheckParts, checkBytes, checkClient } from "../support/check-client.ts";
import { command } from "../support/command.ts";

const folder = await mkdtemp(join(tmpdir(), "sallyport-locks-"));
const token = join(folder, "api-token");
const state = join(folder, "state");
const policy = join(folder, "policy.yaml");
await writeFile(
  policy,
  `apiVersion: sallyport.dev/v1
kind: Policy
metadata: {name: p, revision: "1"}
spec:
  peerGroups:
    - {name: batch, principals: ["spiffe://td/batch-*"]}
  locks:
    - {id: held, scope: {principal: "spiffe://td/held"}, reason: from the policy}
    - {id: over, scope: {principal: "spiffe://td/over"}, reason: long ago, expires: "2020-01-01T00:00:00Z"}
`,
);
const sidecar = await startSidecarProcess({
  name: "sidecar",
  folder,
  policy,
  flags: ["--api-token-file", token, "--state-dir", state],
});
const client = checkClient(sidecar.extAuthz);
t.teardown(async () => {
  client.close();
  await sidecar.stop();
  await rm(folder, { recursive: true, force: true });
});

const PRIVATE = ["--api", `unix:${sidecar.apiSocket}`];
const OPEN = ["--api", sidecar.api];
const decide = (parts: CheckParts): Promise<string> => client.decision(checkBytes(parts));

async function lock(...scope: string[]): Promise<string> {
  const why = scope.includes("--reason") ? [] : ["--reason", "test"];
  const { code, out, err } = await command(["lock", ...scope, ...why, "--output", "json", ...PRIVATE]);
  if (code !== 0) throw new Error(err);
  return (JSON.parse(out) as { id: string }).id;
}

const unlock = (id: string) => command(["unlock", id, ...PRIVATE]);

const web = await (await createPki()).issue({ spiffeId: "spiffe://td/cert" });
const webKey = createHash("sha256")
  .update(new X509Certificate(web.certPem).publicKey.export({ type: "spki", format: "der" }))
  .digest("hex");
const JA4 = "t13d1312h2_f57a46bbacb6_ab7e3b40a677";

const scopes: { name: string; scope: string[]; hit: CheckParts; missed: CheckParts }[] = [
  {
    name: "a principal",
    scope: ["--principal", "spiffe://td/p"],
    hit: { principal: "spiffe://td/p" },
    missed: { principal: "spiffe://td/pp" },
  },
  {
    name: "an address",
    scope: ["--address", "192.0.2.7"],
    hit: { address: "192.0.2.7" },
    missed: { address: "192.0.2.8" },
  },
  {
    name: "a range",
    scope: ["--address", "198.51.100.0/25"],
    hit: { address: "198.51.100.127" },
    missed: { address: "198.51.100.128" },
  },
  {
    name: "an IPv6 range",
    scope: ["--address", "2001:db8:1::/48"],
    hit: { address: "2001:DB8:1:ffff::1" },
    missed: { address: "2001:db8:2::1" },
  },
  {
    name: "a mapped address",
    scope: ["--address", "::ffff:203.0.113.9"],
    hit: { address: "203.0.113.9" },
    missed: { address: "203.0.113.8" },
  },
  { name: "a fingerprint", scope: ["--fingerprint", JA4], hit: { headers: { "x-sallyport-ja4": JA4 } }, missed: {} },
  {
    name: "a destination, in any case",
    scope: ["--destination", "Ledger.Example"],
    hit: { host: "ledger.example:443" },
    missed: { host: "ledger.example.org" },
  },
  {
    name: "a certificate, with colons or without",
    scope: ["--certificate", colons(web.sha256).toUpperCase()],
    hit: { principal: "spiffe://td/cert", certificate: web.certPem },
    missed: { principal: "spiffe://td/cert" },
  },
  {
    name: "a certificate's key",
    scope: ["--key", colons(webKey).toUpperCase()],
    hit: { principal: "spiffe://td/cert", certificate: web.certPem },
    missed: { principal: "spiffe://td/cert" },
  },
  {
    name: "a peer group",
    scope: ["--peer-group", "batch"],
    hit: { principal: "spiffe://td/batch-7" },
    missed: { principal: "spiffe://td/other-7" },
  },
  {
    name: "two parts that must both match",
    scope: ["--principal", "spiffe://td/two", "--address", "192.0.2.20"],
    hit: { principal: "spiffe://td/two", address: "192.0.2.20" },
    missed: { principal: "spiffe://td/two", address: "192.0.2.21" },
  },
];

function colons(hex: string): string {
  return hex.replaceAll(/(..)(?!$)/g, "$1:");
}

for (const { name, scope, hit, missed } of scopes) {
  t.test(`a lock on ${name} ends what it names, and nothing else, until it is unlocked`, async (t) => {
    t.not(await decide(hit), "terminate");
    const id = await lock(...scope);
    t.equal(await decide(hit), "terminate");
    t.not(await decide(missed), "terminate");
    t.match(await unlock(id), { code: 0, out: `unlocked: ${id}\n` });
    t.not(await decide(hit), "terminate");
  });
}

t.test("a credential is locked by the name that its decisions give", async (t) => {
  const parts: CheckParts = { principal: "spiffe://td/bearer", headers: { authorization: "Bearer stolen" } };
  await decide(parts);
  const { out } = await command(["tap", "--recent", "1", "--count", "1", "--output", "json", ...OPEN]);
  const { credential } = JSON.parse(out) as { credential: string };
  t.match(credential, /^token:[0-9a-f]{16}$/);
  const id = await lock("--credential", credential);
  t.equal(await decide(parts), "terminate");
  t.not(await decide({ ...parts, headers: { authorization: "Bearer another" } }), "terminate");
  await unlock(id);
});

t.test("a principal's name is locked whole, however long SPIFFE allows it to be", async (t) => {
  const principal = `spiffe://td/${"a".repeat(2_036)}`;
  t.equal(principal.length, 2_048);
  const id = await lock("--principal", principal);
  t.equal(await decide({ principal }), "terminate");
  t.not(await decide({ principal: `${principal.slice(0, -1)}b` }), "terminate");
  await unlock(id);
  t.match(await command(["lock", "--principal", `${principal}aa`, "--reason", "x", ...PRIVATE]), {
    code: 1,
    err: /principal: expected at most 2048 characters, got 2050.*ERR_LOCK_INVALID/,
  });
});

t.test("a lock ends by itself when it was given a time", async (t) => {
  const { out } = await command([
    "lock",
    "--principal",
    "spiffe://td/soon",
    "--reason",
    "incident 6",
    "--as",
    "ann@shop",
    "--for",
    "12h",
    "--output",
    "json",
    ...PRIVATE,
  ]);
  const { id, set_at, expires_at, ...rest } = JSON.parse(out) as Record<string, string>;
  t.same(rest, { scope: { principal: "spiffe://td/soon" }, reason: "incident 6", set_by: "operator:ann@shop" });
  t.equal(Date.parse(expires_at ?? "") - Date.parse(set_at ?? ""), 43_200_000);
  await unlock(id ?? "");
});

t.test("the list shows the policy's locks too, which only the policy takes away", async (t) => {
  t.equal(await decide({ principal: "spiffe://td/held" }), "terminate");
  t.not(await decide({ principal: "spiffe://td/over" }), "terminate", "expired");
  const id = await lock("--principal", "spiffe://td/listed", "--reason", "incident 7");
  const { out } = await command(["locks", ...OPEN]);
  t.match(out, /^held {2}principal=spiffe:\/\/td\/held {2}until unlocked {2}by policy: from the policy$/m);
  t.match(out, new RegExp(`^${id} {2}principal=spiffe://td/listed {2}until unlocked {2}by operator: incident 7$`, "m"));
  t.match(JSON.parse((await command(["locks", "--output", "json", ...OPEN])).out), [
    { id: "held", set_at: null, expires_at: null },
    { id },
  ]);
  t.match(await unlock("held"), { code: 1, err: /no lock held in the table.*ERR_NOT_FOUND/ });
  await unlock(id);
});

const refused: { name: string; args: string[]; code: number; err: RegExp }[] = [
  {
    name: "no scope",
    args: ["lock", "--reason", "x"],
    code: 2,
    err: /expected at least one of --principal, --credential/,
  },
  { name: "no reason", args: ["lock", "--principal", "x"], code: 2, err: /lock: expected --reason TEXT/ },
  {
    name: "a name that is none",
    args: ["lock", "--principal", "x", "--reason", "x", "--as", "an operator"],
    code: 1,
    err: /as: expected a name.*ERR_LOCK_INVALID/,
  },
  {
    name: "an empty scope",
    args: ["lock", "--principal", "", "--reason", "x"],
    code: 1,
    err: /at least one part.*ERR_LOCK_INVALID/,
  },
  {
    name: "a range that is none",
    args: ["lock", "--address", "10.0.0.0/33", "--reason", "x"],
    code: 1,
    err: /expected an address or CIDR range, got "10\.0\.0\.0\/33".*ERR_LOCK_INVALID/,
  },
  {
    name: "less than a second",
    args: ["lock", "--principal", "x", "--reason", "x", "--for", "999ms"],
    code: 2,
    err: /--for: expected a duration of at least 1s, such as 30m, got "999ms"/,
  },
  {
    name: "a time that is none",
    args: ["lock", "--principal", "x", "--reason", "x", "--for", "soon"],
    code: 2,
    err: /--for: expected a duration/,
  },
  {
    name: "a lock that is not there",
    args: ["unlock", "lock-none"],
    code: 1,
    err: /no lock lock-none in the table.*ERR_NOT_FOUND/,
  },
  {
    name: "an unknown part",
    args: ["lock", "--principle", "x"],
    code: 2,
    err: /unknown flag --principle; did you mean --principal\?/,
  },
  {
    name: "words after it",
    args: ["lock", "spiffe://td/x"],
    code: 2,
    err: /lock: expected no arguments, got 1 arguments/,
  },
];
for (const { name, args, code, err } of refused) {
  t.test(`${name} is refused`, async (t) => t.match(await command([...args, ...PRIVATE]), { code, err, out: "" }));
}

t.test("over the open address a change needs the token; reading does not", async (t) => {
  const args = ["lock", "--principal", "spiffe://td/x", "--reason", "x", ...OPEN];
  t.match(await command(args), {
    code: 1,
    err: /changes need the API token or the private socket \(ERR_API_UNAUTHORIZED\)/,
  });
  await writeFile(join(folder, "wrong"), "w".repeat(32));
  t.match(await command([...args, "--api-token-file", join(folder, "wrong")]), {
    code: 1,
    err: /ERR_API_UNAUTHORIZED/,
  });
  t.match(await command([...args, "--api-token-file", join(folder, "none")]), { code: 2, err: /none: cannot be read/ });
  t.match(await command([...args, "--api-token-file", token]), { code: 0, out: /^locked: lock-[0-9a-f]{12} / });
  const environment = { SALLYPORT_API: sidecar.api, SALLYPORT_API_TOKEN_FILE: token };
  t.match(await command(["lock", "--principal", "spiffe://td/y", "--reason", "y"], environment), { code: 0 });
  t.match(await command(["locks"], environment), { code: 0, out: /spiffe:\/\/td\/x .*\n.*spiffe:\/\/td\/y/ });
});

t.test("changes are in the log with what and why, and never with the token", async (t) => {
  const id = await lock("--principal", "spiffe://td/audited", "--reason", "line one\nline two");
  await unlock(id);
  const log = (await readFile(sidecar.log, "utf8")).trim().split("\n");
  const audits = log
    .map((line) => JSON.parse(line) as Record<string, unknown>)
    .filter(({ event }) => event === "audit");
  t.match(
    audits.filter((entry) => entry.lock === id),
    [{ change: "lock.added", reason: "line one\nline two" }, { change: "lock.removed" }],
  );
  t.notOk(log.join().includes((await readFile(token, "utf8")).trim()));
});

t.test("posture that is stated counts at once", async (t) => {
  const parts: CheckParts = { principal: "spiffe://td/scanned" };
  t.match(
    await command(["posture", "spiffe://td/scanned", "compliant=false", "note=a=b", "--source", "scanner", ...PRIVATE]),
    {
      code: 0,
      out: "stated: spiffe://td/scanned compliant=false note=a=b\n",
    },
  );
  t.equal(await decide(parts), "allow", "this policy forbids nothing");
  t.match(await command(["posture", "spiffe://td/scanned", "compliant", ...PRIVATE]), {
    code: 2,
    err: /expected FACT=VALUE, got "compliant"/,
  });
  t.match(await command(["posture", "x", "a=b", ...OPEN]), { code: 1, err: /ERR_API_UNAUTHORIZED/ });
});

t.test("what was learned can be looked at, carried away, brought back and forgotten", async (t) => {
  for (let i = 0; i < 5; i++) await decide({ principal: "spiffe://td/known" });
  t.match(await command(["baseline", "show", "spiffe://td/known", ...OPEN]), {
    code: 0,
    out: /^spiffe:\/\/td\/known {2}\d+ requests/,
  });
  t.match(await command(["baseline", "show", ...OPEN]), {
    code: 0,
    out: /scores of \d+ requests\n {2}at least {2}promised {2}observed/,
  });
  t.match(JSON.parse((await command(["baseline", "show", "spiffe://td/known", "--output", "json", ...OPEN])).out), [
    { principal: "spiffe://td/known" },
  ]);
  t.match(await command(["baseline", "show", "spiffe://td/nobody", ...OPEN]), { code: 1, err: /ERR_NOT_FOUND/ });
  const file = join(folder, "export");
  t.match(await command(["baseline", "export", file, ...PRIVATE]), { code: 0, out: /^wrote \d+ bytes to / });
  t.match(await command(["baseline", "reset", "spiffe://td/known", ...PRIVATE]), { code: 0 });
  t.match(await command(["baseline", "show", "spiffe://td/known", ...OPEN]), { code: 1 });
  t.match(await command(["baseline", "import", file, ...PRIVATE]), { code: 0 });
  t.match(await command(["baseline", "show", "spiffe://td/known", ...OPEN]), { code: 0 });
  await writeFile(join(folder, "torn"), (await readFile(file)).subarray(0, 50));
  t.match(await command(["baseline", "import", join(folder, "torn"), ...PRIVATE]), {
    code: 1,
    err: /ERR_STATE_INVALID/,
  });
  t.match(
    await command(["baseline", "show", "spiffe://td/known", ...OPEN]),
    { code: 0 },
    "the torn one changed nothing",
  );
  for (const args of [
    ["export", file],
    ["import", file],
    ["reset", "x"],
  ]) {
    t.match(await command(["baseline", ...args, ...OPEN]), { code: 1, err: /ERR_API_UNAUTHORIZED/ });
  }
  t.match(await command(["baseline", "forget", "x", ...PRIVATE]), {
    code: 2,
    err: /expected show, reset, export or import, got "forget"/,
  });
  t.match(await command(["baseline", "reset", ...PRIVATE]), { code: 2, err: /expected PRINCIPAL/ });
});
