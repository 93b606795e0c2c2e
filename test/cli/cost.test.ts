import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { command } from "../support/command.ts";

const folder = await mkdtemp(join(tmpdir(), "sallyport-cost-"));
t.teardown(() => rm(folder, { recursive: true, force: true }));
const file = async (name: string, lines: readonly string[]): Promise<string> => {
  await writeFile(join(folder, name), lines.join("\n"));
  return join(folder, name);
};

const NOON_MS = Date.parse("2026-03-02T12:00:00Z");
const HOUR_MS = 3_600_000;

/** A line of a decision log. */
const logged = (hour: number, principal: string, score: number, rule = "default"): string =>
  JSON.stringify({
    decision_id: `d-${hour}`,
    timestamp: new Date(NOON_MS + hour * HOUR_MS).toISOString(),
    input: {
      principal,
      credential: "token:1",
      protocol: "http",
      method: "GET",
      destination: "orders",
      route: "GET /orders/{id}",
    },
    result: {
      risk: { score, decision: "allow", enforced: "allow", mode: "observe", rule, answered: false, reasons: [] },
    },
  });

const LOG = [
  logged(0, "spiffe://td/a", 45),
  logged(200, "spiffe://td/a", 10),
  logged(201, "spiffe://td/a", 29.9),
  logged(202, "spiffe://td/b", 30, "payments"),
  logged(203, "spiffe://td/b", 55, "payments"),
  logged(204, "spiffe://td/c", 100),
];

interface Report {
  readonly requests: number;
  readonly certain: number;
  readonly costs: readonly {
    readonly threshold: number;
    readonly requests: number;
    readonly share: number;
    readonly promised: number;
    readonly principals: number;
    readonly top: readonly { readonly principal: string; readonly share: number; readonly rules: readonly string[] }[];
  }[];
}

async function cost(...flags: string[]): Promise<Report> {
  const { code, out, err } = await command(["cost", "--output", "json", ...flags]);
  if (code !== 0) throw new Error(err);
  return JSON.parse(out) as Report;
}

t.test("a decision log's own scores count; both sides of a threshold, and certain facts apart", async (t) => {
  const report = await cost("--requests", await file("log.jsonl", LOG), "--at", "30,26,60");
  t.match(report, { requests: 6, principals: 3, certain: 1 });
  t.match(
    report.costs.map(({ threshold, requests, principals }) => [threshold, requests, principals]),
    [
      [26, 4, 2],
      [30, 3, 2],
      [60, 0, 0],
    ],
  );
  t.match(report.costs[1], {
    share: 0.5,
    promised: 0.001,
    top: [
      { principal: "spiffe://td/b", requests: 2, share: 1, rules: ["payments"] },
      { principal: "spiffe://td/a", requests: 1, share: 1 / 3, rules: ["default"] },
    ],
  });
});

t.test("only what came lately counts, by the time of the file itself", async (t) => {
  const log = await file("log.jsonl", LOG);
  t.equal((await cost("--requests", log, "--since", "7d")).requests, 5);
  t.equal((await cost("--requests", log, "--since", "1h")).requests, 2);
});

t.test("it is read as a table", async (t) => {
  const { out } = await command(["cost", "--requests", await file("log.jsonl", LOG), "--at", "30"]);
  t.match(out, /^6 requests of 3 principals$/m);
  t.match(out, /^ +30 +3 +50\.00% +0\.10% +2$/m);
  t.match(out, /^at 30 would be challenged:$/m);
  t.match(out, /^ +2 +100\.00% of its own {2}spiffe:\/\/td\/b {2}\(rule payments\)$/m);
});

t.test("rows are replayed in observe mode: who is challenged once is not let off for it", async (t) => {
  const row = (minute: number, change: Record<string, unknown> = {}): string =>
    JSON.stringify({
      time: new Date(NOON_MS + minute * 60_000).toISOString(),
      principal: "spiffe://td/a",
      credential: "c",
      source_address: "10.0.0.1",
      user_agent: "a/1",
      method: "GET",
      host: "orders",
      path: "/orders/1",
      status: 200,
      ...change,
    });
  const thief = { source_address: "203.0.113.9", user_agent: "curl/8" };
  const rows = await file("rows.jsonl", [
    ...Array.from({ length: 60 }, (_, minute) => row(minute)),
    row(61, thief),
    row(62, thief),
  ]);
  const report = await cost("--requests", rows, "--at", "26");
  t.match(report, { requests: 62, costs: [{ threshold: 26, principals: 1 }] });
  t.ok((report.costs[0]?.requests ?? 0) >= 1);
});

t.test("what was not used rightly is told", async (t) => {
  const log = await file("log.jsonl", LOG);
  const cases = [
    { args: [], err: /^sallyport cost: expected --requests/ },
    { args: ["--requests", log, "--at", "30,x"], err: /--at: expected at most 20 scores/ },
    { args: ["--requests", log, "--at", "0"], err: /--at: expected/ },
    { args: ["--requests", log, "--since", "soon"], err: /--since: expected a duration/ },
  ];
  for (const { args, err } of cases) t.match(await command(["cost", ...args]), { code: 2, err });
});
