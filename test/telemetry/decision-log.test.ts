import { mkdtemp, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import type { OperatingError } from "../../src/model/errors.ts";
import { decisionLine, writeDecisionLine } from "../../src/telemetry/decision-line.ts";
import { DecisionLog, parseDecisionLine } from "../../src/telemetry/decision-log.ts";
import type { DecisionRecord } from "../../src/telemetry/decision-record.ts";
import { TextWriter } from "../../src/telemetry/text-writer.ts";

const RECORD: DecisionRecord = {
  decisionId: "d-1",
  timeMs: Date.parse("2026-03-02T12:00:00Z"),
  decision: "deny",
  enforced: "allow",
  because: "score",
  score: 42.5,
  reasons: [{ signal: "origin.address", bits: 14, points: 42.5, seen: "new", expected: "10.0.0.1" }],
  mode: "observe",
  rule: "default",
  thresholds: { challenge: 26, deny: 40, terminate: 70 },
  ruleThresholds: ["deny"],
  policyName: "p",
  policyRevision: "r-1",
  principal: "spiffe://td/web",
  credential: "token:0123456789abcdef",
  protocol: "http",
  method: "GET",
  destination: "orders",
  route: "GET /orders/{id}",
  sourceAddress: "10.0.0.1",
  userAgent: undefined,
  ja4: undefined,
  requestId: "r-1",
  answered: false,
  latencyUs: 120,
  shadow: undefined,
};
const LABELS = { id: "sidecar", version: "1.0.0" };

function lineOf(record: DecisionRecord): TextWriter {
  const line = new TextWriter();
  writeDecisionLine(line, record, LABELS);
  return line;
}

const folder = await mkdtemp(join(tmpdir(), "sallyport-decision-log-"));
t.teardown(() => rm(folder, { recursive: true, force: true }));

t.test("a line has the shape of OPA's decision logs", async (t) => {
  t.same(JSON.parse(decisionLine(RECORD, LABELS)), {
    decision_id: "d-1",
    labels: LABELS,
    timestamp: "2026-03-02T12:00:00.000Z",
    input: {
      principal: "spiffe://td/web",
      credential: "token:0123456789abcdef",
      protocol: "http",
      method: "GET",
      destination: "orders",
      route: "GET /orders/{id}",
      source_address: "10.0.0.1",
      request_id: "r-1",
    },
    result: {
      allowed: true,
      risk: {
        score: 42.5,
        decision: "deny",
        enforced: "allow",
        because: "score",
        mode: "observe",
        rule: "default",
        thresholds: { challenge: 26, deny: 40, terminate: 70 },
        rule_thresholds: ["deny"],
        answered: false,
        reasons: [{ signal: "origin.address", bits: 14, points: 42.5, seen: "new", expected: "10.0.0.1" }],
      },
    },
    bundles: { policy: { name: "p", revision: "r-1" } },
    metrics: { timer_check_ns: 120_000 },
  });
});

t.test("what the candidate policy would have decided otherwise is in the line", async (t) => {
  const shadow = {
    policyName: "p",
    policyRevision: "r-2",
    decision: "challenge",
    score: 42.5,
    rule: "x",
    reasons: [],
  } as const;
  t.match(JSON.parse(decisionLine({ ...RECORD, shadow }, LABELS)), {
    shadow: { revision: "r-2", decision: "challenge", score: 42.5, rule: "x" },
  });
});

t.test("a line stays one line, whatever a caller put into it", async (t) => {
  const line = decisionLine({ ...RECORD, userAgent: 'a"\n\u2028{}', principal: "x\r\ny" }, LABELS);
  t.notOk(/[\r\n]/.test(line));
  t.match(parseDecisionLine(line), { decision_id: "d-1", input: { principal: "x\r\ny" } });
});

t.test("what is no line of a decision log is refused", async (t) => {
  t.throws(() => parseDecisionLine('{"decision_id": 7}'), { code: "ERR_DATA_INVALID" });
  t.throws(() => parseDecisionLine("{"), SyntaxError);
});

t.test("lines are appended to a file that others may not read", async (t) => {
  const path = join(folder, "decisions.log");
  for (const round of ["one", "two"]) {
    const log = new DecisionLog(path, (error) => t.fail(error.message));
    t.equal(log.write(lineOf({ ...RECORD, decisionId: round })), true);
    await log.close();
  }
  const lines = (await readFile(path, "utf8")).trim().split("\n");
  t.match(
    lines.map((line) => parseDecisionLine(line)),
    [{ decision_id: "one" }, { decision_id: "two" }],
  );
  t.equal((await stat(path)).mode & 0o007, 0);
});

t.test("a file that cannot be written is told once, and further lines are dropped", async (t) => {
  const errors: OperatingError[] = [];
  const told = new Promise<void>((resolve) => {
    const log = new DecisionLog(join(folder, "no", "where"), (error) => {
      errors.push(error);
      t.equal(log.write(lineOf(RECORD)), false);
      resolve();
    });
    log.write(lineOf(RECORD));
  });
  await told;
  t.match(errors, [{ code: "ERR_STATE_UNWRITABLE", message: /^decision log .*where: ENOENT/ }]);
});

t.test("a disk that is too slow costs lines, not memory", async (t) => {
  const log = new DecisionLog(join(folder, "slow.log"), (error) => t.fail(error.message));
  const big = lineOf({ ...RECORD, userAgent: "x".repeat(1024 * 1024) });
  const written = Array.from({ length: 20 }, () => log.write(big));
  t.same([written[0], written.at(-1)], [true, false], "16 MiB are held, no more");
  await log.close();
});

t.test("lines that are gathered while others are being written arrive whole and in order", async (t) => {
  const path = join(folder, "many.log");
  const log = new DecisionLog(path, (error) => t.fail(error.message));
  const count = 5_000;
  for (let i = 0; i < count; i++) {
    t.ok(log.write(lineOf({ ...RECORD, decisionId: `d-${i}`, userAgent: "ä".repeat(i % 300) })));
    if (i % 700 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  await log.close();
  const lines = (await readFile(path, "utf8")).trimEnd().split("\n");
  t.equal(lines.length, count);
  for (const [i, line] of lines.entries()) t.equal(parseDecisionLine(line).decision_id, `d-${i}`);
});
