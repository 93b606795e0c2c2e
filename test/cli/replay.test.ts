import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import t from "tap";
import { command } from "../support/command.ts";

const folder = await mkdtemp(join(tmpdir(), "sallyport-replay-"));
t.teardown(() => rm(folder, { recursive: true, force: true }));
const at = (name: string): string => join(folder, name);
const file = async (name: string, content: string | Uint8Array): Promise<string> => {
  await writeFile(at(name), content);
  return at(name);
};

const NOON_MS = Date.parse("2026-03-02T12:00:00Z");
const row = (minute: number, change: Record<string, unknown> = {}): string =>
  JSON.stringify({
    time: new Date(NOON_MS + minute * 60_000).toISOString(),
    principal: "spiffe://td/a",
    credential: "c",
    source_address: "10.0.0.1",
    user_agent: "a/1",
    tls_fingerprint: null,
    method: "GET",
    host: "orders",
    path: "/orders/1",
    status: 200,
    response_bytes: 10,
    ...change,
  });
const THIEF = { source_address: "203.0.113.9", user_agent: "curl/8", path: "/admin" };
const HOUR = Array.from({ length: 60 }, (_, minute) => row(minute));
const STORY = [...HOUR, row(61, THIEF), row(62, THIEF), row(63)];
const POLICY = "apiVersion: sallyport.dev/v1\nkind: Policy\nmetadata: {name: p}\n";

interface Decision {
  readonly index: number;
  readonly decision: string;
  readonly score: number;
  readonly reasons: readonly { readonly signal: string; readonly points: number }[];
}

async function replay(rows: string, ...flags: string[]): Promise<{ decisions: readonly Decision[]; summary: string }> {
  const { code, out, err } = await command(["replay", "--requests", rows, ...flags]);
  if (code !== 0) throw new Error(err);
  return {
    decisions: out
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Decision),
    summary: err,
  };
}

t.test("without a file decisions go to standard output, and the summary beside it", async (t) => {
  const { decisions, summary } = await replay(await file("story.jsonl", STORY.join("\n")));
  t.equal(decisions.length, 63);
  t.match(decisions[60], { index: 60, decision: "challenge", reasons: [{ signal: /^origin\./ }] });
  t.match(decisions.at(-1), { index: 62, decision: "allow" }, "the owner goes on");
  t.match(summary, /^63 rows: 61 allow, 1 challenge, 1 deny, 0 terminate$/m);
});

t.test("lines of Windows, empty lines and no newline at the end are the same story", async (t) => {
  const plain = await replay(await file("plain.jsonl", `${STORY.join("\n")}\n`));
  const odd = await replay(await file("odd.jsonl", `\n${STORY.join("\r\n\r\n")}`));
  t.same(odd.decisions, plain.decisions);
});

t.test(
  "a malformed row stops with the number of its line, blank lines counted; earlier decisions are there",
  async (t) => {
    const rows = await file("bad.jsonl", `${row(0)}\n\n${row(1)}\n{"time":\n${row(2)}\n`);
    const out = at("bad.out");
    t.match(await command(["replay", "--requests", rows, "--out", out]), {
      code: 1,
      err: /line 4: expected a JSON object.*ERR_REPLAY_ROW/,
    });
    t.equal((await readFile(out, "utf8")).trim().split("\n").length, 2);
  },
);

t.test("the row's content is not repeated in the error", async (t) => {
  const rows = await file("secret.jsonl", '{"time": "2026-03-02T12:00:00Z", "credential": "sk-live-1" oops\n');
  const { code, err } = await command(["replay", "--requests", rows]);
  t.equal(code, 1);
  t.notOk(err.includes("sk-live-1"));
});

t.test("whether callers answer decides what becomes of them", async (t) => {
  const rows = await file(
    "answering.jsonl",
    [...HOUR, row(61, { ...THIEF, answers_challenge: true }), row(62, THIEF)].join("\n"),
  );
  const last = async (...flags: string[]) => (await replay(rows, ...flags)).decisions.at(-1)?.decision;
  t.equal(await last("--answers", "rows"), "allow");
  t.equal(await last("--answers", "all"), "allow");
  t.not(await last("--answers", "none"), "allow");
});

t.test("a fleet's memory is shared between hosts, a callee's is its own", async (t) => {
  const moved = [...HOUR, row(61, { ...THIEF, host: "ledger" })];
  const rows = await file("hosts.jsonl", moved.join("\n"));
  const score = async (view: string) => (await replay(rows, "--view", view)).decisions.at(-1)?.score ?? 0;
  t.ok((await score("fleet")) > (await score("callee")));
});

t.test("observing prints what would have been", async (t) => {
  const rows = await file("observed.jsonl", STORY.join("\n"));
  const byFlag = await replay(rows, "--mode", "observe");
  t.match(byFlag.decisions[61], { decision: "challenge" }, "and nobody is denied for not answering");
  const policy = await file("observe.yaml", `${POLICY}spec: {mode: observe}\n`);
  t.same((await replay(rows, "--policy", policy)).decisions, byFlag.decisions);
});

t.test("two policies are compared row by row", async (t) => {
  const rows = await file("compared.jsonl", STORY.join("\n"));
  const same = await file("same.yaml", `${POLICY}spec: {}\n`);
  const lax = await file("lax.yaml", `${POLICY}spec: {thresholds: {challenge: 99, deny: 99, terminate: 100}}\n`);
  const summary = async (...flags: string[]) =>
    (await command(["replay", "--requests", rows, "--out", at("x"), ...flags])).out;
  t.match(await summary("--compare", same), /the other policy decides the same everywhere/);
  t.match(await summary("--compare", lax), /^ {2}challenge -> allow: 1\n {2}deny -> allow: 1$/m);
  t.match(JSON.parse(await summary("--compare", lax, "--output", "json")), {
    rows: 63,
    allow: 61,
    differences: { "challenge -> allow": 1, "deny -> allow": 1 },
  });
});

t.test("a comparison says who is decided otherwise and why, and writes all of it to a file", async (t) => {
  const rows = await file("why.jsonl", STORY.join("\n"));
  const lax = await file("lax.yaml", `${POLICY}spec: {thresholds: {challenge: 99, deny: 99, terminate: 100}}\n`);
  const silent = await file("silent.yaml", `${POLICY}spec: {signals: {origin: {mode: observe}}}\n`);
  const differences = at("differences.jsonl");
  const compared = ["replay", "--requests", rows, "--out", at("x"), "--compare"];
  const { out } = await command([...compared, lax, "--differences", differences]);
  t.match(out, /^challenge -> allow: 1 request of 1 principal$/m);
  t.match(out, /^ +1 {2}spiffe:\/\/td\/a$/m);
  t.match(
    out,
    /^ {2}row 60 {2}2026-03-02T13:01:00\.000Z {2}spiffe:\/\/td\/a {2}orders GET \/admin from 203\.0\.113\.9$/m,
  );
  t.match(
    out,
    /^ {4}challenge [\d.]+ \(rule default\) {2}-> {2}allow [\d.]+ \(rule default\): challenge threshold 26 -> 99,/m,
  );
  const written = (await readFile(differences, "utf8")).trim().split("\n");
  t.match(
    written.map((line) => JSON.parse(line)),
    [
      { index: 60, before: { decision: "challenge" }, after: { decision: "allow", thresholds: { challenge: 99 } } },
      { index: 61, before: { decision: "deny" }, after: { decision: "allow" } },
    ],
  );
  const json = JSON.parse((await command([...compared, silent, "--output", "json"])).out);
  t.match(json.compared[0]?.samples[0]?.reasons[0], { signal: /^origin\./, after: 0 });
  t.match(await command(["replay", "--requests", rows, "--differences", differences]), {
    code: 2,
    err: /--differences: expected --compare/,
  });
});

t.test("a decision log is replayed like rows: templates stand for paths, and answers are taken from it", async (t) => {
  const line = (minute: number, change: Record<string, unknown> = {}, answered = false): string =>
    JSON.stringify({
      decision_id: `d-${minute}`,
      timestamp: new Date(NOON_MS + minute * 60_000).toISOString(),
      input: {
        principal: "spiffe://td/a",
        credential: "token:1",
        protocol: "http",
        method: "GET",
        destination: "orders",
        route: "GET /orders/{id}",
        source_address: "10.0.0.1",
        user_agent: "a/1",
        ...change,
      },
      result: { risk: { score: 0, decision: "allow", enforced: "allow", rule: "default", answered, reasons: [] } },
    });
  const thief = { source_address: "203.0.113.9", user_agent: "curl/8" };
  const log = [...Array.from({ length: 60 }, (_, minute) => line(minute)), line(61, thief)];
  const ignored = await replay(await file("ignored.log", [...log, line(62, thief)].join("\n")));
  t.same(
    ignored.decisions.slice(59).map(({ decision }) => decision),
    ["allow", "challenge", "deny"],
  );
  const answered = line(62, { ...thief, credential: "token:2" }, true);
  const passed = await replay(await file("answered.log", [...log, answered].join("\n")));
  t.equal(passed.decisions.at(-1)?.decision, "allow");
  const torn = await file("torn.log", `${line(0)}\n${line(1).replace('"protocol":"http"', '"protocol":"smoke"')}`);
  t.match(await command(["replay", "--requests", torn]), {
    code: 1,
    err: /line 2: protocol: expected http, grpc or tcp, got "smoke".*ERR_REPLAY_ROW/,
  });
});

t.test("the same rows give the same decisions every time", async (t) => {
  const rows = await file("again.jsonl.gz", gzipSync(STORY.join("\n")));
  t.same(await replay(rows), await replay(rows));
});

t.test("what cannot be read, or was not used rightly, is told", async (t) => {
  const rows = await file("rows.jsonl", STORY.join("\n"));
  const bad = await file("bad.yaml", `${POLICY}spec: {mode: on}\n`);
  const cases: { args: string[]; code: number; err: RegExp }[] = [
    { args: [], code: 2, err: /expected --requests ROWS\.jsonl/ },
    {
      args: ["--requests", await file("no.gz", "not packed")],
      code: 1,
      err: /no\.gz: cannot be read: incorrect header check/,
    },
    { args: ["--requests", folder], code: 1, err: /cannot be read: EISDIR/ },
    {
      args: ["--requests", rows, "--answers", "maybe"],
      code: 2,
      err: /--answers: expected rows, none, all, got "maybe"/,
    },
    { args: ["--requests", rows, "--view", "all"], code: 2, err: /--view: expected callee, fleet/ },
    {
      args: ["--requests", rows, "--policy", bad],
      code: 1,
      err: /bad\.yaml:4:14 spec\.mode.*[\s\S]*ERR_POLICY_INVALID/,
    },
    { args: ["--requests", rows, "--compare", bad], code: 1, err: /ERR_POLICY_INVALID/ },
  ];
  for (const { args, code, err } of cases) t.match(await command(["replay", ...args]), { code, err });
});

t.test("a file without rows is no error", async (t) => {
  t.match(await command(["replay", "--requests", await file("empty.jsonl", ""), "--out", at("none")]), {
    code: 0,
    out: /^0 rows: /,
  });
});
