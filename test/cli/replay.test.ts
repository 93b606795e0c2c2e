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
