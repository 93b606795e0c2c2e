/** Tests that an address accuses somebody only when it is certain whose it is. */

import fc from "fast-check";
import t from "tap";
import { ADDRESS_GRACE_MS, WORKLOADS_KEPT_MS, WORKLOADS_STALE_MS, Workloads } from "../../src/check/workload-table.ts";
import { type EpochMs, toEpochMs } from "../../src/model/units.ts";
import type { Workload } from "../../src/model/workloads.ts";
import { NOON } from "../support/requests.ts";

const at = (ms: number): EpochMs => toEpochMs(NOON + ms);
const spiffe = (account: string): string => `spiffe://td/${account}`;

const podOf = (uid: string, account: string, address: string, more: Partial<Workload> = {}): Workload => ({
  uid,
  principals: [spiffe(account)],
  addresses: [address],
  shared: false,
  common: { image_digest: "x" },
  own: { pod: uid },
  ...more,
});

const LATER = ADDRESS_GRACE_MS;

/** `a` at 10.0.0.1 and `b` at 10.0.0.2, told and confirmed at noon. */
function settled(...more: readonly Workload[]): Workloads {
  const table = new Workloads(100);
  table.change(
    {
      first: true,
      last: true,
      put: [podOf("a-1", "a", "10.0.0.1"), podOf("b-1", "b", "10.0.0.2"), ...more],
      removed: [],
    },
    at(0),
  );
  table.confirm(at(0));
  return table;
}

const kindOf = (table: Workloads, address: string, account: string, ms: number) =>
  table.peerOf(address, spiffe(account), at(ms))?.kind;

const cases: readonly {
  name: string;
  when: (table: Workloads) => void;
  ask: [string, string, number];
  want: "own" | "other" | undefined;
}[] = [
  { name: "the principal's own pod", when: () => {}, ask: ["10.0.0.1", "a", 0], want: "own" },
  { name: "another's pod", when: () => {}, ask: ["10.0.0.2", "a", LATER], want: "other" },
  { name: "another's pod, just told of", when: () => {}, ask: ["10.0.0.2", "a", LATER - 1], want: undefined },
  { name: "an address of nobody", when: () => {}, ask: ["10.0.0.9", "a", LATER], want: undefined },
  { name: "a principal without any pod", when: () => {}, ask: ["10.0.0.2", "c", LATER], want: undefined },
  {
    name: "fresh to the last",
    when: (table) => table.confirm(at(LATER)),
    ask: ["10.0.0.2", "a", LATER + WORKLOADS_STALE_MS],
    want: "other",
  },
  {
    name: "stale",
    when: (table) => table.confirm(at(LATER)),
    ask: ["10.0.0.2", "a", LATER + WORKLOADS_STALE_MS + 1],
    want: undefined,
  },
  { name: "stale, its own", when: () => {}, ask: ["10.0.0.1", "a", LATER + WORKLOADS_STALE_MS + 1], want: "own" },
  {
    name: "changes are being missed",
    when: (table) => table.confirm(undefined),
    ask: ["10.0.0.2", "a", LATER],
    want: undefined,
  },
  {
    name: "and are no longer",
    when: (table) => {
      table.confirm(undefined);
      table.confirm(at(1));
    },
    ask: ["10.0.0.2", "a", LATER],
    want: "other",
  },
  {
    name: "a source that knows less takes the place of one that knew more",
    when: (table) => {
      table.confirm(at(LATER));
      table.confirm(at(-WORKLOADS_STALE_MS));
    },
    ask: ["10.0.0.2", "a", LATER],
    want: undefined,
  },
  {
    name: "everything told anew, not confirmed yet",
    when: (table) =>
      table.change(
        { first: true, last: true, put: [podOf("a-1", "a", "10.0.0.1"), podOf("b-1", "b", "10.0.0.2")], removed: [] },
        at(1),
      ),
    ask: ["10.0.0.2", "a", LATER],
    want: undefined,
  },
  {
    name: "everything told anew and confirmed: what was known stays known",
    when: (table) => {
      table.change(
        { first: true, last: true, put: [podOf("a-1", "a", "10.0.0.1"), podOf("b-1", "b", "10.0.0.2")], removed: [] },
        at(1),
      );
      table.confirm(at(1));
    },
    ask: ["10.0.0.2", "a", LATER],
    want: "other",
  },
  {
    name: "other facts of the same pod change nothing",
    when: (table) =>
      table.change(
        { first: false, last: true, put: [podOf("b-1", "b", "10.0.0.2", { common: {}, own: {} })], removed: [] },
        at(LATER - 1),
      ),
    ask: ["10.0.0.2", "a", LATER],
    want: "other",
  },
  {
    name: "the pod is gone",
    when: (table) => table.change({ first: false, last: true, put: [], removed: ["b-1"] }, at(LATER)),
    ask: ["10.0.0.2", "a", LATER],
    want: undefined,
  },
  {
    name: "the address went to another pod a moment ago",
    when: (table) =>
      table.change({ first: false, last: true, put: [podOf("c-1", "c", "10.0.0.2")], removed: ["b-1"] }, at(LATER)),
    ask: ["10.0.0.2", "a", LATER + ADDRESS_GRACE_MS - 1],
    want: undefined,
  },
  {
    name: "the address went to another pod a while ago",
    when: (table) =>
      table.change({ first: false, last: true, put: [podOf("c-1", "c", "10.0.0.2")], removed: ["b-1"] }, at(LATER)),
    ask: ["10.0.0.2", "a", LATER + ADDRESS_GRACE_MS],
    want: "other",
  },
  {
    name: "two pods claim the address",
    when: (table) =>
      table.change({ first: false, last: true, put: [podOf("c-1", "c", "10.0.0.2")], removed: [] }, at(0)),
    ask: ["10.0.0.2", "a", LATER],
    want: undefined,
  },
  {
    name: "two pods claimed the address, one has just left it",
    when: (table) => {
      table.change({ first: false, last: true, put: [podOf("c-1", "c", "10.0.0.2")], removed: [] }, at(0));
      table.change({ first: false, last: true, put: [], removed: ["c-1"] }, at(LATER));
    },
    ask: ["10.0.0.2", "a", LATER + ADDRESS_GRACE_MS - 1],
    want: undefined,
  },
  {
    name: "the pod is ending",
    when: (table) =>
      table.change(
        { first: false, last: true, put: [podOf("b-1", "b", "10.0.0.2", { shared: true })], removed: [] },
        at(1),
      ),
    ask: ["10.0.0.2", "a", LATER],
    want: undefined,
  },
  {
    name: "an ending pod calls by its own name",
    when: (table) =>
      table.change(
        { first: false, last: true, put: [podOf("b-1", "b", "10.0.0.2", { shared: true })], removed: [] },
        at(1),
      ),
    ask: ["10.0.0.2", "b", LATER],
    want: "own",
  },
  {
    name: "the pod has another address now",
    when: (table) =>
      table.change({ first: false, last: true, put: [podOf("b-1", "b", "10.0.0.3")], removed: [] }, at(1)),
    ask: ["10.0.0.2", "a", LATER],
    want: undefined,
  },
  {
    name: "everything was forgotten",
    when: (table) => table.clear(),
    ask: ["10.0.0.2", "a", LATER],
    want: undefined,
  },
];
for (const { name, when, ask, want } of cases) {
  t.test(`whose address: ${name}`, async (t) => {
    const table = settled();
    when(table);
    t.equal(kindOf(table, ...ask), want);
  });
}

t.test("either name of a service account is its own, and both of an address's families are", async (t) => {
  const jwt = "https://cluster|system:serviceaccount:shop:d";
  const table = settled(
    podOf("d-1", "d", "10.0.0.4", { principals: [spiffe("d"), jwt], addresses: ["10.0.0.4", "2001:db8::4"] }),
  );
  t.equal(table.peerOf("2001:db8::4", jwt, at(0))?.kind, "own");
  t.equal(table.peerOf("10.0.0.2", jwt, at(LATER))?.kind, "other");
});

t.test("facts are those of the very pod where its address names it, else what all of them agree on", async (t) => {
  const second = podOf("a-2", "a", "10.0.0.5", { own: { pod: "a-2", node: "n2" } });
  const table = settled(second);
  table.confirm(at(5));
  const own = table.peerOf("10.0.0.5", spiffe("a"), at(5));
  t.same(table.factsOf(spiffe("a"), own, at(5)), {
    facts: { image_digest: "x", pod: "a-2", node: "n2" },
    source: "kubernetes",
    reportedAtMs: NOON + 5,
  });
  t.same(table.factsOf(spiffe("a"), undefined, at(5))?.facts, { image_digest: "x" });
  t.equal(table.factsOf(spiffe("a"), undefined, at(5)), table.factsOf(spiffe("a"), undefined, at(6)), "made once");
  table.change(
    {
      first: false,
      last: true,
      put: [podOf("a-2", "a", "10.0.0.5", { common: { image_digest: "y" }, own: {} })],
      removed: [],
    },
    at(6),
  );
  t.same(table.factsOf(spiffe("a"), undefined, at(6))?.facts, {}, "a roll-out is under way");
  table.change({ first: false, last: true, put: [], removed: ["a-1"] }, at(7));
  t.same(table.factsOf(spiffe("a"), undefined, at(7))?.facts, { image_digest: "y" });
  t.equal(table.factsOf(spiffe("none"), undefined, at(7)), undefined);
});

t.test("facts age with what is known, and end", async (t) => {
  const table = settled();
  t.equal(table.factsOf(spiffe("a"), undefined, at(WORKLOADS_KEPT_MS))?.reportedAtMs, NOON);
  t.equal(table.factsOf(spiffe("a"), undefined, at(WORKLOADS_KEPT_MS + 1)), undefined);
});

t.test("beyond its bound nothing is taken, and nothing of it is known", async (t) => {
  const table = new Workloads(2);
  const put = ["a", "b", "c"].map((name, i) => podOf(name, name, `10.0.0.${i}`));
  table.change({ first: true, last: true, put, removed: [] }, at(0));
  t.equal(table.size, 2);
  table.change({ first: false, last: true, put: [put[2]!], removed: ["a"] }, at(0));
  t.equal(table.size, 2);
  table.confirm(at(0));
  t.equal(kindOf(table, "10.0.0.2", "c", 0), "own");
});

t.test(
  "law: nobody is accused unless exactly one pod, neither ending nor shared, has held the address for the whole grace",
  async () => {
    const names = ["a", "b", "c"];
    const step = fc.record({
      uid: fc.integer({ min: 0, max: 5 }),
      account: fc.constantFrom(...names),
      address: fc.constantFrom("10.0.0.1", "10.0.0.2"),
      shared: fc.boolean(),
      gone: fc.boolean(),
      stepMs: fc.integer({ min: 0, max: ADDRESS_GRACE_MS }),
      confirm: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
        const table = new Workloads(100);
        const there = new Map<string, Workload>();
        /** When the set of holders of an address last changed. */
        const changed = new Map<string, number>();
        let ms = 0;
        let confirmed = Number.NEGATIVE_INFINITY;
        return steps.every(({ uid: number, account, address, shared, gone, stepMs, confirm }) => {
          ms += stepMs;
          const uid = `u${number}`;
          const before = there.get(uid);
          const next = podOf(uid, account, address, { shared });
          if (gone) {
            table.change({ first: false, last: true, put: [], removed: [uid] }, at(ms));
            there.delete(uid);
            if (before !== undefined) changed.set(before.addresses[0]!, ms);
          } else {
            table.change({ first: false, last: true, put: [next], removed: [] }, at(ms));
            there.set(uid, next);
            if (JSON.stringify(before) !== JSON.stringify(next)) {
              changed.set(address, ms);
              if (before !== undefined) changed.set(before.addresses[0]!, ms);
            }
          }
          if (confirm) {
            table.confirm(at(ms));
            confirmed = ms;
          }
          return names.every((name) =>
            ["10.0.0.1", "10.0.0.2"].every((asked) => {
              for (const later of [0, 1, ADDRESS_GRACE_MS]) {
                const holders = [...there.values()].filter(({ addresses }) => addresses.includes(asked));
                const [one, ...more] = holders;
                const isOther =
                  one !== undefined &&
                  more.length === 0 &&
                  !one.shared &&
                  !one.principals.includes(spiffe(name)) &&
                  ms + later - changed.get(asked)! >= ADDRESS_GRACE_MS &&
                  ms + later - confirmed <= WORKLOADS_STALE_MS &&
                  [...there.values()].some(({ principals }) => principals.includes(spiffe(name)));
                if ((kindOf(table, asked, name, ms + later) === "other") !== isOther) return false;
              }
              return true;
            }),
          );
        });
      }),
      { numRuns: 500 },
    );
  },
);
