import { closeSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import t from "tap";
import { OperatingError } from "../../src/model/errors.ts";
import { createLog, errorFields, type LogLevel, lineWriter } from "../../src/telemetry/log.ts";

const AT_MS = Date.UTC(2026, 0, 2, 3, 4, 5, 6);
/** What a log of a level says. */
function logTo(level: LogLevel) {
  const lines: string[] = [];
  const log = createLog(
    level,
    (line) => lines.push(line),
    () => AT_MS,
  );
  return { lines, log };
}

t.test("an event is one line of JSON: level, time, its fields in their order, and words", async (t) => {
  const { lines, log } = logTo("info");
  log.warn({ event: "policy.stale", ageMs: 12.5, from: ["a", "b"], by: { kind: "file" }, code: undefined }, "it stays");
  t.same(lines, [
    '{"level":"warn","time":"2026-01-02T03:04:05.006Z","event":"policy.stale","ageMs":12.5,"from":["a","b"],"by":{"kind":"file"},"message":"it stays"}\n',
  ]);
});

t.test("whatever is in it, an event stays one line and reads back", async (t) => {
  fc.assert(
    fc.property(fc.string({ unit: "binary" }), fc.jsonValue(), fc.string({ unit: "binary" }), (name, value, words) => {
      fc.pre(!["level", "time", "message", "__proto__"].includes(name));
      const { lines, log } = logTo("debug");
      log.info({ [name]: value }, words);
      t.equal(lines.length, 1);
      t.match(lines[0], /^[^\n]*\n$/);
      const time = "2026-01-02T03:04:05.006Z";
      const said = JSON.parse(lines[0] as string) as Readonly<Record<string, unknown>>;
      t.same(said, JSON.parse(JSON.stringify({ level: "info", time, [name]: value, message: words })));
    }),
    { numRuns: 200 },
  );
});

t.test("whole numbers too large for JSON are told as text", async (t) => {
  const { lines, log } = logTo("info");
  log.info({ event: "x", revision: 2n ** 63n }, "");
  t.match(JSON.parse(lines[0] as string), { revision: "9223372036854775808" });
});

const LEVELS = ["debug", "info", "warn", "error"] as const;
for (const [level, said] of [
  ["debug", ["debug", "info", "warn", "error"]],
  ["info", ["info", "warn", "error"]],
  ["warn", ["warn", "error"]],
  ["error", ["error"]],
  ["silent", []],
] as const) {
  t.test(`at ${level} it says ${said.join(", ") || "nothing"}`, async (t) => {
    const { lines, log } = logTo(level);
    for (const each of LEVELS) log[each]({ event: each }, "");
    t.same(
      lines.map((line) => (JSON.parse(line) as { readonly event: string }).event),
      said,
    );
  });
}

t.test("a line is in the file when the call returns", async (t) => {
  const path = join(t.testdir(), "log");
  const file = openSync(path, "a");
  t.teardown(() => closeSync(file));
  lineWriter(file)("é1\n");
  t.equal(readFileSync(path, "utf8"), "é1\n");
});

/** A descriptor that answers as told, call by call: so many bytes taken, or an error's code. */
function descriptor(...answers: readonly (number | string)[]) {
  const left = [...answers];
  let taken = "";
  const write = (_: number, bytes: Uint8Array): number => {
    const answer = left.shift() ?? bytes.length;
    if (typeof answer === "string") throw Object.assign(new Error(answer), { code: answer });
    taken += Buffer.from(bytes.subarray(0, answer)).toString("latin1");
    return answer;
  };
  return { write: write as never, taken: () => taken, left };
}

t.test("a descriptor that takes a part, or nothing for now, gets the whole line", async (t) => {
  const { write, taken, left } = descriptor(2, "EAGAIN", 1, "EAGAIN");
  lineWriter(1, write)("abcdef\n");
  t.equal(taken(), "abcdef\n");
  t.same(left, []);
});

t.test("a reader that has left is told nothing more, and nobody hears of it", async (t) => {
  const { write, taken } = descriptor(2, "EPIPE");
  const say = lineWriter(1, write);
  say("abcdef\n");
  say("next\n");
  t.equal(taken(), "ab");
});

t.test("a full disk costs the line that it does not take, and no other", async (t) => {
  const { write, taken } = descriptor("ENOSPC");
  const say = lineWriter(1, write);
  say("lost\n");
  say("kept\n");
  t.equal(taken(), "kept\n");
});

t.test("our own errors are told whole, others by their kind and place only", async (t) => {
  t.same(errorFields(new OperatingError("ERR_JWKS", "keys from https://x: refused")), {
    code: "ERR_JWKS",
    error: "keys from https://x: refused",
  });
  const foreign = errorFields(new TypeError("unexpected token sk-live-1 in header"));
  t.match(foreign, { code: "TypeError", at: /log\.test\.ts/ });
  t.notOk(JSON.stringify(foreign).includes("sk-live-1"));
  t.same(errorFields("text"), { code: "string" });
  t.same(errorFields(undefined), { code: "undefined" });
});
