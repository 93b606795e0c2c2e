import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import fc from "fast-check";
import t from "tap";
import { createLine } from "../../src/check/line.ts";
import { readSnapshot } from "../../src/check/snapshot.ts";
import { OperatingError } from "../../src/model/errors.ts";
import type { Line } from "../../src/model/line.ts";
import { HOUR_MS, MINUTE_MS, SECOND_MS, toEpochMs } from "../../src/model/units.ts";
import { countingBytes, NOON, POLICY, type RequestOptions, request } from "../support/requests.ts";

const NOW = toEpochMs(NOON + HOUR_MS);
/** What version 2 wrote of two callers, one lock and one posture. */
const VERSION_2 = readFileSync(new URL("states/version-2.state", import.meta.url));
const CHECKSUM_BYTES = 32;

function newLine(principalsMax = 200): Line {
  return createLine({ principalsMax, sessionsMax: 500, random: countingBytes() });
}

function pass(line: Line, options: RequestOptions, status = 200): void {
  const facts = request(options);
  const verdict = line.check(facts, { ...POLICY, mode: "observe" });
  line.learn(facts, verdict);
  const { time, decisionId } = verdict;
  const bytes = { responseBytes: 500 + (time % 1_000), requestBytes: undefined };
  line.outcome({
    time,
    decisionId,
    requestId: undefined,
    status,
    grpcStatus: undefined,
    ...bytes,
    durationMs: 1,
    stage: "end",
  });
}

function callerOf(who: number): RequestOptions {
  return {
    principal: `spiffe://td/caller-${who}`,
    credential: `token-${who}`,
    address: `10.1.${who % 250}.5`,
    agent: who % 3 === 0 ? `größe/${who}` : "web/1.0",
  };
}

/** A line with so many callers, each with some requests. */
function taught(callers: number): Line {
  const line = newLine();
  for (let i = 0; i < callers * 4; i++) {
    pass(
      line,
      { ...callerOf(i % callers), at: NOON + i * SECOND_MS, path: `/orders/${i % 7}/lines` },
      i % 9 === 0 ? 404 : 200,
    );
  }
  line.posture.put("spiffe://td/caller-0", {
    facts: { attested: "true", __proto__: "x" },
    source: "agent",
    reportedAtMs: NOON,
  });
  line.locks.add({
    id: "one",
    scope: { principal: "p" },
    reason: "left",
    setBy: "operator",
    setAtMs: NOON,
    expiresAtMs: undefined,
  });
  const range = { address: "192.0.2.0/24", fingerprint: "t13d1312h2_f57a46bbacb6_ab7e3b40a677" };
  line.locks.add({ id: "two", scope: range, reason: "left", setBy: "auto", setAtMs: NOON, expiresAtMs: NOW + 0.5 });
  return line;
}

const restored = (bytes: Uint8Array, principalsMax?: number): Line => {
  const line = newLine(principalsMax);
  line.restore(bytes);
  return line;
};

/** The bytes of all steps, with something done after each. */
function inSteps(line: Line, between: (step: number) => void): Buffer {
  const slices: Uint8Array[] = [];
  const steps = line.snapshotSteps(NOW);
  for (let count = 0; ; count++) {
    const step = steps.next();
    if (step.done === true) return Buffer.concat(slices);
    if (step.value !== undefined) slices.push(Buffer.from(step.value));
    between(count);
  }
}

/** Of a packed snapshot whose content was changed: what only a defect of the writer could bring. */
function sealed(content: Uint8Array): Uint8Array {
  return Buffer.concat([content, createHash("sha256").update(content).digest()]);
}

t.test("what is restored says and judges the same, for any course of requests", async (t) => {
  const course = fc.array(
    fc.record({
      who: fc.nat({ max: 5 }),
      after: fc.nat({ max: HOUR_MS }),
      path: fc.constantFrom("/", "/orders", "/orders/17", "/admin/ü"),
      agent: fc.constantFrom("web/1.0", "curl/8.0"),
      status: fc.constantFrom(200, 404),
    }),
    { minLength: 1, maxLength: 60 },
  );
  const law = fc.property(course, (requests) => {
    const line = newLine();
    let at = NOON;
    for (const { who, after, status, ...rest } of requests) {
      at += after;
      pass(line, { ...callerOf(who), ...rest, at }, status);
    }
    const bytes = line.snapshot(NOW);
    const [one, two] = [restored(bytes), restored(bytes)];
    t.same(one.snapshot(NOW), two.snapshot(NOW));
    t.same(sorted(one), sorted(line), "every principal, with its habits");
    for (const who of [0, 1, 9]) {
      // A credential of its own: sessions and the whereabouts of credentials end with the process.
      const facts = request({ ...callerOf(who), credential: "fresh", address: "203.0.113.9", at: at + 2 * HOUR_MS });
      t.equal(one.check(facts, POLICY).score, line.check(facts, POLICY).score);
    }
  });
  fc.assert(law, { numRuns: 40 });
});

function sorted(line: Line) {
  return [...line.principals()].sort((a, b) => (a.principal < b.principal ? -1 : 1));
}

t.test("locks and posture facts come back as they were", async (t) => {
  const line = taught(3);
  const copy = restored(line.snapshot(NOW));
  t.same(copy.locks.list(NOW), line.locks.list(NOW));
  t.equal(copy.locks.list(NOW).length, 2);
  t.same(copy.posture.get("spiffe://td/caller-0"), line.posture.get("spiffe://td/caller-0"));
});

t.test("who was seen longest ago is forgotten first, after a restart as before", async (t) => {
  const line = newLine();
  for (let i = 0; i < 40; i++) pass(line, { ...callerOf(i), at: NOON + i * 2 * MINUTE_MS });
  // The first are seen again, last.
  for (let i = 0; i < 10; i++) pass(line, { ...callerOf(i), at: NOON + (40 + i) * 2 * MINUTE_MS });
  const names = restored(line.snapshot(NOW), 10)
    .principals()
    .map(({ principal }) => principal);
  t.same(
    names,
    Array.from({ length: 10 }, (_, i) => callerOf(i).principal),
  );
});

t.test("all steps together are the snapshot that is made at once", async (t) => {
  const line = taught(50);
  const whole = line.snapshot(NOW);
  t.same(
    inSteps(line, () => {}),
    Buffer.from(whole),
  );
});

t.test("steps between which others learn, are forgotten and come are a snapshot that can be read", async (t) => {
  const line = taught(150);
  const bytes = inSteps(line, (step) => {
    pass(line, { ...callerOf(step % 150), at: NOW + step * SECOND_MS, path: `/new/${step}` });
    pass(line, { ...callerOf(10_000 + step), at: NOW + step * SECOND_MS });
    line.forget(callerOf(149 - step).principal as string);
    line.posture.put(`spiffe://td/caller-${step}`, {
      facts: { step: String(step) },
      source: "agent",
      reportedAtMs: NOW,
    });
  });
  const names = new Set(
    restored(bytes)
      .principals()
      .map(({ principal }) => principal),
  );
  t.ok(names.has(callerOf(0).principal as string), "told before it learned more");
  t.notOk(names.has(callerOf(149).principal as string), "forgotten before it was its turn");
});

t.test("no step does much: one writes a few principals, or a few other things", async (t) => {
  let steps = 0;
  inSteps(taught(160), () => {
    steps++;
  });
  t.ok(steps > 160 / 5, `${steps} steps`);
});

t.test("the version before is still read, and goes on as the one of today", async (t) => {
  const old = restored(VERSION_2);
  const copy = restored(old.snapshot(NOW));
  for (const line of [old, copy]) {
    t.match(sorted(line), [
      { principal: "spiffe://td/billing", requests: 60 },
      { principal: "spiffe://td/web", requests: 60, features: [{ feature: "address", values: 1, top: ["10.1.0.6"] }] },
    ]);
    t.match(line.locks.list(NOW), [
      { id: "lock-1", scope: { principal: "spiffe://td/gone", address: "192.0.2.0/24" } },
    ]);
    t.match(line.posture.get("spiffe://td/web"), { facts: { attested: "true" }, source: "agent", reportedAtMs: NOON });
    // As version 2 itself judged after a restart.
    const web = { principal: "spiffe://td/web", at: NOON + 2 * HOUR_MS };
    const usual = { ...web, address: "10.1.0.6", agent: "web/1.0", path: "/orders", credential: "c" };
    const thief = { ...web, address: "203.0.113.66", agent: "curl/8.0", path: "/admin", credential: "d" };
    t.equal(line.preview(request(usual), POLICY).score, 18.1);
    t.equal(line.preview(request(thief), POLICY).score, 75.9);
  }
});

for (const [name, bytes, says] of [
  ["of a newer version", Buffer.from("sallyport-state 4 1\nx"), /expected version 2 or 3, got 4/],
  ["of a version too old", Buffer.from("sallyport-state 1 1 aa\n{}"), /expected version 2 or 3, got 1/],
  ["with a header alone", Buffer.from("sallyport-state 3 1\n"), /checksum/],
  ["without content", sealed(Buffer.from("sallyport-state 3 1\n")), /expected form/],
  ["of version 2, torn", VERSION_2.subarray(0, 500), /checksum/],
] as const) {
  t.test(`a state ${name} is refused with what is wrong`, async (t) => {
    t.throws(() => readSnapshot(bytes), { code: "ERR_STATE_INVALID", message: says });
  });
}

t.test("a snapshot torn anywhere is refused", async (t) => {
  const bytes = taught(5).snapshot(NOW);
  fc.assert(
    fc.property(fc.nat({ max: bytes.length - 1 }), (length) => {
      t.throws(() => readSnapshot(bytes.subarray(0, length)), { code: "ERR_STATE_INVALID" });
    }),
  );
});

t.test("content changed under a checksum that holds is refused, or read: nothing else happens", async (t) => {
  const bytes = taught(5).snapshot(NOW);
  const start = bytes.indexOf(10) + 1;
  const content = Buffer.from(bytes.subarray(0, bytes.length - CHECKSUM_BYTES));
  const changes = fc.array(fc.record({ at: fc.nat({ max: content.length - start - 1 }), byte: fc.nat({ max: 255 }) }), {
    minLength: 1,
    maxLength: 4,
  });
  let refused = 0;
  const law = fc.property(changes, fc.nat({ max: 40 }), (changed, cut) => {
    const damaged = Buffer.from(content.subarray(0, content.length - cut));
    for (const { at, byte } of changed) if (start + at < damaged.length) damaged[start + at] = byte;
    try {
      readSnapshot(sealed(damaged));
    } catch (error) {
      refused++;
      return error instanceof OperatingError && error.code === "ERR_STATE_INVALID";
    }
    return true;
  });
  fc.assert(law, { numRuns: 1_000 });
  t.ok(refused > 0);
});
