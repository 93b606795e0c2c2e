import t from "tap";
import { type Pending, PendingTable } from "../../src/check/pending.ts";
import { toEpochMs } from "../../src/model/units.ts";
import { newSession, newStanding } from "../../src/sessions/session.ts";
import { NOON, POLICY } from "../support/requests.ts";

const now = toEpochMs(NOON);

function pending(decisionId: string, requestId?: string): Pending {
  return {
    decisionId,
    requestId,
    destination: "orders",
    route: "GET /orders",
    policy: POLICY,
    session: newSession({ key: "place" }, "c", newStanding("o", "p", now), now),
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
