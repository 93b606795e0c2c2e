import fc from "fast-check";
import t from "tap";
import { type Awaiting, type Pending, PendingTable } from "../../src/check/pending.ts";
import { toEpochMs } from "../../src/model/units.ts";
import { newSession, newStanding } from "../../src/sessions/session.ts";
import { NOON, POLICY } from "../support/requests.ts";

const now = toEpochMs(NOON);
const PLACE = { address: "10.1.0.5", cipher: undefined, product: undefined };

function awaiting(route = "GET /orders"): Awaiting {
  return {
    destination: "orders",
    route,
    policy: POLICY,
    session: newSession("c", newStanding(PLACE, "p", now), now),
    baseline: undefined,
    teaches: true,
    lesson: undefined,
  };
}

t.test("a verdict is found by its id, else by the id of its request", async (t) => {
  const table = new PendingTable(4);
  const one = table.add("d1", "r1", awaiting());
  t.equal(table.find("d1", undefined), one);
  t.equal(table.find(undefined, "r1"), one);
  t.equal(table.find("unknown", "r1"), one);
  t.equal(table.find("r1", "d1"), undefined);
});

t.test("the oldest verdicts go first, and with them their request ids; a stream that is kept stays", async (t) => {
  const table = new PendingTable(3);
  const stream = table.add("stream", "of stream", awaiting());
  for (const id of ["a", "b"]) table.add(id, `of ${id}`, awaiting());
  table.keep(stream);
  table.add("c", undefined, awaiting());
  t.equal(table.find("a", "of a"), undefined);
  t.equal(table.find("stream", undefined), stream);
  table.add("d", undefined, awaiting());
  table.add("e", undefined, awaiting());
  t.equal(table.find("stream", "of stream"), undefined);
});

t.test("a request asked about twice leads to the later verdict, whichever of them goes first", async (t) => {
  const table = new PendingTable(2);
  const first = table.add("first", "r", awaiting());
  const second = table.add("second", "r", awaiting());
  t.equal(table.find(undefined, "r"), second);
  table.delete("first", first);
  t.equal(table.find(undefined, "r"), second);
});

t.test("an outcome that came by the request id alone leaves the verdict to be learned from", async (t) => {
  const table = new PendingTable(2);
  const one = table.add("d", "r", awaiting());
  table.delete(undefined, one);
  t.equal(table.find(undefined, "r"), undefined);
  t.equal(table.find("d", undefined), one);
});

t.test("what takes the place of another has nothing of it", async (t) => {
  const table = new PendingTable(1);
  table.add("old", "of old", awaiting("GET /old")).bytesBits = 7;
  const fresh = table.add("new", undefined, awaiting("GET /new"));
  t.match(fresh, { route: "GET /new", bytesBits: 0, waits: true });
  t.equal(table.find("old", "of old"), undefined);
});

t.test("request ids that are too long or no Latin-1 are left out; so are none", async (t) => {
  const table = new PendingTable(8);
  for (const [i, id] of ["x".repeat(65), "рус", ""].entries()) {
    table.add(`d${i}`, id, awaiting());
    t.equal(table.find(undefined, id), undefined);
    t.ok(table.find(`d${i}`, undefined));
  }
  t.ok(table.add("longest", "x".repeat(64), awaiting()) === table.find(undefined, "x".repeat(64)));
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
          const fresh = table.add(one.id, `of ${one.id}`, awaiting());
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
        const asModel = steps.every(({ id: asked }) => table.find(asked, undefined) === model.get(asked));
        const byRequest = steps.every(({ id: asked }) => {
          const found = table.find(undefined, `of ${asked}`);
          return found === undefined || found === model.get(asked);
        });
        if (!asModel || !byRequest) t.fail("as the model");
      }
    }),
    { numRuns: 40 },
  );
});
