import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import t from "tap";
import { runCommand } from "../../scripts/demo/sidecar.ts";
import { command } from "../support/command.ts";

const folder = await mkdtemp(join(tmpdir(), "sallyport-cli-"));
t.teardown(() => rm(folder, { recursive: true, force: true }));
const file = async (name: string, text: string | Uint8Array): Promise<string> => {
  const path = join(folder, name);
  await writeFile(path, text);
  return path;
};

t.test("version, help and unknown words", async (t) => {
  t.match(await runCommand(["version"]), { code: 0, out: /^sallyport \d+\.\d+\.\d+ \(node / });
  t.match(JSON.parse((await runCommand(["version", "--output", "json"])).out), { version: String, node: String });
  t.match(await runCommand(["help"]), { code: 0, out: /serve .*\n/ });
  t.match(await runCommand(["serve", "--help"]), { code: 0, out: /--ext-authz-address/ });
  t.match(await runCommand([]), { code: 2 });
  t.match(await runCommand(["serv"]), { code: 2, err: /unknown command "serv"; did you mean serve\?/ });
  t.match(await runCommand(["serve", "--polcy", "x"]), {
    code: 2,
    err: /unknown flag --polcy; did you mean --policy\?/,
  });
  t.match(await runCommand(["version", "--output", "xml"]), { code: 2, err: /expected text or json, got "xml"/ });
  t.match(await runCommand(["unlock"]), { code: 2, err: /expected LOCK_ID, got nothing/ });
});

t.test("a good policy is good, a bad one is told with every place at once", async (t) => {
  const head = "apiVersion: sallyport.dev/v1\nkind: Policy\nmetadata: {name: p}\n";
  const good = await file("good.yaml", `${head}spec: {mode: observe}\n`);
  t.match(await command(["check", good]), { code: 0, out: /good\. p sha256:[0-9a-f]{12}, mode observe/ });
  const bad = await file("bad.yaml", `${head}spec:\n  mode: obsrve\n  thresholds: {deny: 140}\n  rulez: []\n`);
  const { code, err } = await command(["check", bad]);
  t.equal(code, 1);
  t.match(err, /bad\.yaml:5:9 spec\.mode: /);
  t.match(err, /bad\.yaml:6:22 spec\.thresholds\.deny: expected 0\.\.100, got 140/);
  t.match(err, /bad\.yaml:7:3 spec\.rulez: .*did you mean "rules"\?/);
  t.match(err, /\n {2}6 \| {3}thresholds: \{deny: 140\}\n {4}\| {22}\^\n/, "with the line and a caret under the place");
  t.match(err, /\n3 problems\n$/);
  t.match(JSON.parse((await command(["check", bad, "--output", "json"])).out), {
    ok: false,
    problems: [{ line: 5 }],
  });
  await file("out.txt", "192.0.2.0/24\n");
  await mkdir(join(folder, "in"), { recursive: true });
  const outside = await file(
    "in/outside.yaml",
    `${head}spec: { lists: { addresses: [{ name: l, file: ../out.txt }] } }\n`,
  );
  t.match(await command(["check", outside]), {
    code: 0,
    out: /good\./,
    err: /^note: "\.\.\/out\.txt" cannot go into a bundle, which takes a name that does not leave the policy's folder\n$/,
  });
  t.match(await command(["check", join(folder, "none.yaml")]), { code: 1, err: /no such file/ });
  t.match(await command(["check", await file("own.yaml", (await command(["check", "--print-default"])).out)]), {
    code: 0,
  });
});

const row = (change: Record<string, unknown> = {}) =>
  JSON.stringify({
    time: "2026-03-02T12:00:00Z",
    principal: "spiffe://td/a",
    credential: "c",
    source_address: "10.0.0.1",
    user_agent: "a/1",
    tls_fingerprint: null,
    method: "GET",
    host: "h",
    path: "/",
    status: 200,
    response_bytes: 10,
    ...change,
  });
const minute = (i: number): string => new Date(Date.parse("2026-03-02T12:00:00Z") + i * 60_000).toISOString();
const story = [
  ...Array.from({ length: 60 }, (_, i) => row({ time: minute(i) })),
  row({ time: minute(61), source_address: "203.0.113.9", user_agent: "curl/8", path: "/admin" }),
  row({ time: minute(62), source_address: "203.0.113.9", user_agent: "curl/8", path: "/admin" }),
].join("\n");

t.test("a replay writes one decision a row, points that sum to the score, gzip or not", async (t) => {
  const plain = await file("rows.jsonl", `${story}\n`);
  const packed = await file("rows.jsonl.gz", gzipSync(story));
  const out = join(folder, "decisions.jsonl");
  t.match(await command(["replay", "--requests", plain, "--out", out]), {
    code: 0,
    out: /^62 rows: 60 allow, 1 challenge, 1 deny/,
  });
  const decisions = (await readFile(out, "utf8"))
    .trim()
    .split("\n")
    .map(
      (line) => JSON.parse(line) as { index: number; score: number; decision: string; reasons: { points: number }[] },
    );
  t.same(
    decisions.map(({ index }) => index),
    Array.from({ length: 62 }, (_, i) => i),
  );
  for (const { score, reasons } of decisions) {
    t.ok(Math.abs(reasons.reduce((sum, { points }) => sum + points, 0) - score) < 0.05);
  }
  const text = await readFile(out, "utf8");
  await command(["replay", "--requests", packed, "--out", out]);
  t.equal(await readFile(out, "utf8"), text);
});

t.test("answers and observe mode change what a replay learns and says", async (t) => {
  const rows = await file("rows2.jsonl", story);
  const counts = async (...flags: string[]) =>
    JSON.parse(
      (await command(["replay", "--requests", rows, "--out", join(folder, "d"), "--output", "json", ...flags])).out,
    );
  t.match(await counts("--answers", "all"), { rows: 62, challenge: 1, deny: 0 });
  t.match(await counts("--mode", "observe"), { challenge: 2, deny: 0 });
});

t.test("two policies can be compared", async (t) => {
  const rows = await file("rows3.jsonl", story);
  const strict = await file(
    "strict.yaml",
    "apiVersion: sallyport.dev/v1\nkind: Policy\nmetadata: {name: p}\nspec: {rules: [{name: none, decision: deny}]}\n",
  );
  const { out } = await command(["replay", "--requests", rows, "--out", join(folder, "d"), "--compare", strict]);
  t.match(out, /allow -> deny: 60/);
});

const malformed = [
  { name: "text that is no JSON", text: "{", says: /line 2: expected a JSON object/ },
  { name: "a missing time", text: row({ time: undefined }), says: /line 2: time: expected a string, got nothing/ },
  {
    name: "a time that is none",
    text: row({ time: "noon" }),
    says: /line 2: time: expected an RFC 3339 time, got "noon"/,
  },
  {
    name: "a status that is text",
    text: row({ status: "200" }),
    says: /line 2: status: expected a number or null, got a string/,
  },
];
for (const { name, text, says } of malformed) {
  t.test(`${name} stops a replay with its line`, async (t) => {
    const rows = await file("malformed.jsonl", `${row()}\n${text}\n`);
    t.match(await command(["replay", "--requests", rows, "--out", join(folder, "d")]), { code: 1, err: says });
  });
}

t.test("files that cannot be read or written are named", async (t) => {
  t.match(await command(["replay", "--requests", join(folder, "none.jsonl")]), {
    code: 1,
    err: /none\.jsonl: cannot be read/,
  });
  const rows = await file("rows4.jsonl", story);
  t.match(await command(["replay", "--requests", rows, "--out", join(folder, "no", "where")]), {
    code: 1,
    err: /cannot be written/,
  });
  const torn = await file("torn.jsonl.gz", gzipSync(story).subarray(0, 40));
  t.match(await command(["replay", "--requests", torn]), { code: 1, err: /torn\.jsonl\.gz: cannot be read/ });
});

t.test("simulated rows can be replayed", async (t) => {
  const rows = join(folder, "simulated.jsonl");
  t.match(await command(["simulate", "--out", rows, "--days", "2", "--services", "4", "--thefts", "0"]), {
    code: 0,
  });
  t.match(await command(["replay", "--requests", rows, "--out", join(folder, "d")]), {
    code: 0,
    out: / 0 deny, 0 terminate/,
  });
  t.match(await command(["simulate", "--out", rows, "--days", "1"]), {
    code: 2,
    err: /--days: expected a whole number from 2 to 30, got "1"/,
  });
});

t.test("commands that need a sidecar say so when there is none", async (t) => {
  for (const args of [["locks"], ["tap"], ["explain", "x"], ["baseline", "show"], ["posture", "x", "a=b"]]) {
    const { code, err } = await command([...args, "--api", "127.0.0.1:9"]);
    t.equal(code, 1, String(args[0]));
    t.match(err, /local API does not answer.*ERR_API/, String(args[0]));
  }
});

t.test("a line that is no whole one of a decision log is told as such", async (t) => {
  const log = await file(
    "decisions.log",
    `\n${JSON.stringify({ decision_id: "d-1", result: { risk: { score: 5 } } })}\n`,
  );
  t.match(await command(["explain", "d-1", "--log", log]), {
    code: 1,
    err: /decisions\.log: no whole line of a decision log: line 2: .*ERR_DATA_INVALID/,
  });
  t.match(await command(["explain", "d-2", "--log", log]), { code: 1, err: /ERR_NOT_FOUND/ });
});
