import fc from "fast-check";
import t from "tap";
import { type Lesson, type Pending, PendingTable } from "../../src/check/pending.ts";
import { toEpochMs } from "../../src/model/units.ts";
import { newSession, newStanding } from "../../src/sessions/session.ts";
import { NOON, POLICY } from "../support/requests.ts";

const now = toEpochMs(NOON);
const PLACE = { address: "10.1.0.5", cipher: undefined, product: undefined };

function pending(decisionId: string, requestId?: string): Pending {
  return {
    decisionId,
    requestId,
    destination: "orders",
    route: "GET /orders",
    policy: POLICY,
    session: newSession("c", newStanding(PLACE, "p", now), now),
    baseline: undefined,
    teaches: true,
    lesson: undefined,
    bytesBits: 0,
    older: undefined,
    newer: undefined,
  };
}

t.test("a verdict is found by its id, else by the id of its request", async (t) => {
  const table = new PendingTable(4);
  const one = pending("d1", "r1");
  table.add(one);
  t.equal(table.find("d1", undefined), one);
  t.equal(table.find(undefined, "r1"), one);
  t.equal(table.find("unknown", "r1"), one);
  t.equal(table.find("r1", "d1"), undefined);
});

t.test("the oldest verdicts go first, and with them their request ids; a stream that is kept stays", async (t) => {
  const table = new PendingTable(3);
  const stream = pending("stream", "of stream");
  table.add(stream);
  for (const id of ["a", "b"]) table.add(pending(id, `of ${id}`));
  table.keep(stream);
  table.add(pending("c"));
  t.equal(table.find("a", "of a"), undefined);
  t.equal(table.find("stream", undefined), stream);
  table.add(pending("d"));
  table.add(pending("e"));
  t.equal(table.find("stream", "of stream"), undefined);
});

t.test("a request asked about twice leads to the later verdict, whichever of them goes first", async (t) => {
  const table = new PendingTable(2);
  const first = pending("first", "r");
  const second = pending("second", "r");
  table.add(first);
  table.add(second);
  table.delete("first", first);
  t.equal(table.find(undefined, "r"), second);
});

t.test("an outcome that came by the request id alone leaves the verdict to be learned from", async (t) => {
  const table = new PendingTable(2);
  const one = pending("d", "r");
  table.add(one);
  table.delete(undefined, one);
  t.equal(table.find(undefined, "r"), undefined);
  t.equal(table.find("d", undefined), one);
});

t.test("where nobody reports outcomes few verdicts wait, and as many as ever once somebody does", async (t) => {
  const table = new PendingTable(20_000);
  const waiting = (count: number, from: number) =>
    Array.from({ length: count }, (_, i) => table.find(`d${from + i}`, undefined)).filter(Boolean).length;
  for (let i = 0; i < 16_384; i++) table.add(pending(`d${i}`));
  t.equal(waiting(16_384, 0), 16_384, "at the start nobody knows");
  table.add(pending("d16384"));
  t.equal(waiting(16_385, 0), 32);
  t.ok(table.find("d16384", undefined), "the latest are there to be learned from");
  t.equal(table.reported("d0", undefined), undefined);
  for (let i = 0; i < 2_000; i++) table.add(pending(`e${i}`));
  t.ok(table.reported("e0", undefined));
});

t.test("what is still to be learned from waits, whether outcomes are reported or not", async (t) => {
  const table = new PendingTable(30_000);
  for (let i = 0; i < 17_000; i++) table.add({ ...pending(`d${i}`), lesson: i < 5 ? undefined : ({} as Lesson) });
  t.equal(table.find("d4", undefined), undefined);
  t.ok(table.find("d5", undefined));
});

t.test("whatever comes and goes, what waits is found and nothing else is", async (t) => {
  // Few endings, so that ids share their places.
  const id = fc
    .tuple(fc.nat(200), fc.constantFrom("00000000", "00000001", "ffffffff", "7"))
    .map(([n, end]) => `${n}-${end}`);
  const step = fc.oneof(
    fc.record({ kind: fc.constant("add" as const), id }),
    fc.record({ kind: fc.constantFrom("delete" as const, "keep" as const), id }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 300 }), fc.integer({ min: 1, max: 20 }), (steps, max) => {
      const table = new PendingTable(max);
      const model = new Map<string, Pending>();
      for (const one of steps) {
        const known = model.get(one.id);
        if (one.kind === "add") {
          const fresh = pending(one.id);
          table.add(fresh);
          model.delete(one.id);
          model.set(one.id, fresh);
          if (model.size > max) model.delete(model.keys().next().value as string);
        } else if (known !== undefined && one.kind === "keep") {
          table.keep(known);
          model.delete(one.id);
          model.set(one.id, known);
        } else if (known !== undefined) {
          table.delete(one.id, known);
          model.delete(one.id);
        }
        if (!steps.every(({ id: asked }) => table.find(asked, undefined) === model.get(asked))) t.fail("as the model");
      }
    }),
    { numRuns: 40 },
  );
});
