/** Tests how long what was told of pods counts, and when it has to be told anew. */

import t from "tap";
import { WORKLOADS_KEPT_MS, WORKLOADS_STALE_MS, Workloads } from "../../src/check/workload-table.ts";
import type { WorkloadChange } from "../../src/model/workloads.ts";
import { FleetWorkloads } from "../../src/server/fleet-workloads.ts";

function scene() {
  let nowMs = 1_000_000_000;
  const views: string[] = [];
  const table = new Workloads(100);
  const workloads = new FleetWorkloads({
    line: { workloads: table },
    now: () => nowMs,
    onView: (view, pods) => views.push(`${view} ${pods}`),
  });
  const pass = (ms: number): void => {
    nowMs += ms;
  };
  return { workloads, table, views, pass };
}

const part = (uid: string, more: Partial<WorkloadChange> = {}): WorkloadChange => ({
  first: false,
  last: true,
  put: [{ uid, principals: ["p"], addresses: [], shared: false, common: {}, own: {} }],
  removed: [],
  ...more,
});

t.test("it is fresh once it was told whole and confirmed, and stale when it is not any more", async (t) => {
  const { workloads, views, pass } = scene();
  workloads.heard(0, false);
  t.equal(workloads.view, "none", "nothing was told yet");
  workloads.changed(part("a", { first: true, last: false }), "");
  t.equal(workloads.state, "", "half of everything is nothing to go on from");
  workloads.changed(part("b"), "s:1");
  t.equal(workloads.state, "s:1");
  t.equal(workloads.view, "none", "not confirmed");
  workloads.heard(1_000, false);
  t.equal(workloads.view, "fresh");
  t.equal(workloads.confirmedSeconds(), 1);
  pass(WORKLOADS_STALE_MS - 1_000);
  t.equal(workloads.view, "fresh");
  pass(1);
  workloads.look();
  t.same(views, ["fresh 2", "stale 2"]);
  workloads.heard(0, false);
  t.equal(workloads.view, "fresh");
  workloads.heard(0, true);
  t.equal(workloads.view, "stale", "the watch behind it is down");
  workloads.heard(WORKLOADS_STALE_MS + 1, false);
  t.equal(workloads.view, "stale", "the watch behind it is silent");
});

t.test(
  "a connection that ends makes it stale at once, and it is gone on from; what was unreadable is told anew",
  async (t) => {
    const { workloads, table } = scene();
    workloads.changed(part("a", { first: true }), "s:1");
    workloads.heard(0, false);
    workloads.lost(false);
    t.equal(workloads.view, "stale");
    t.equal(workloads.state, "s:1");
    workloads.heard(0, false);
    t.equal(workloads.view, "fresh");
    workloads.lost(true);
    t.equal(workloads.view, "stale");
    t.equal(workloads.state, "");
    t.equal(table.size, 1, "facts stay for a while");
  },
);

t.test(
  "everything told anew takes away what is not in it, however it is parted; half of it takes away nothing",
  async (t) => {
    const { workloads, table } = scene();
    workloads.changed({ ...part("a", { first: true }), put: ["a", "b", "c"].flatMap((uid) => part(uid).put) }, "s:1");
    workloads.changed(part("a", { first: true, last: false }), "");
    workloads.lost(false);
    workloads.changed(part("d"), "s:2");
    t.equal(table.size, 4, "the one that broke off is forgotten");
    workloads.changed(part("a", { first: true, last: false }), "");
    workloads.changed(part("d", { last: false }), "");
    workloads.changed(part("e"), "s:3");
    t.equal(table.size, 3);
  },
);

t.test("unconfirmed for a quarter of an hour it is forgotten, and asked for anew", async (t) => {
  const { workloads, table, views, pass } = scene();
  workloads.changed(part("a", { first: true }), "s:1");
  workloads.heard(0, false);
  pass(WORKLOADS_KEPT_MS);
  workloads.look();
  t.equal(table.size, 1);
  pass(1);
  workloads.look();
  t.equal(table.size, 0);
  t.equal(workloads.state, "");
  t.equal(workloads.confirmedSeconds(), undefined);
  t.same(views, ["fresh 1", "stale 1", "none 0"]);
});
