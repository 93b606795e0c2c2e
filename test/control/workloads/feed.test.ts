/** Tests that sidecars which hear some of what is told, at any time, come to know exactly what there is. */

import { gunzipSync } from "node:zlib";
import { fromBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import t from "tap";
import { WorkloadFeed } from "../../../src/control/workloads/feed.ts";
import { type KnownPod, readPod } from "../../../src/control/workloads/pod.ts";
import { WorkloadsSchema } from "../../../src/gen/sallyport/control/v1/control_pb.ts";
import { pod } from "./fake-api.ts";

const EPOCH = "0123456789abcdef";
const NAMING = {
  principal: "spiffe://td/{namespace}/{serviceAccount}",
  trustDomain: "",
  issuer: undefined,
  labels: [],
};

const known = (name: string, node: string): KnownPod => readPod(pod({ name, node, ip: "10.0.0.1" }), NAMING)!;
const feedOf = (podsMax = 10_000, onLeftOut = (): void => {}): WorkloadFeed =>
  new WorkloadFeed({ epoch: EPOCH, podsMax, onChange: () => {}, onLeftOut });

/** Knows what it was told, as a sidecar would. */
class Sidecar {
  readonly pods = new Map<string, string>();
  state = "";
  messages = 0;

  sync(feed: WorkloadFeed): void {
    const has = feed.versionOf(this.state);
    if (has === feed.current) return;
    for (const bytes of feed.since(has)) {
      this.messages++;
      const { kinds, put, removed, first, last, state } = fromBinary(WorkloadsSchema, gunzipSync(bytes));
      if (first) this.pods.clear();
      for (const uid of removed) this.pods.delete(uid);
      for (const one of put) this.pods.set(one.uid, `${one.facts.node} ${kinds[one.kind]!.principals.join()}`);
      if (last) this.state = state;
    }
  }

  get text(): string {
    return JSON.stringify([...this.pods].sort());
  }
}

const truth = (pods: ReadonlyMap<string, KnownPod>): string =>
  JSON.stringify([...pods].map(([uid, { facts, kind }]) => [uid, `${facts.node} ${kind.principals.join()}`]).sort());

t.test("however changes, versions and looks are interleaved, a sidecar ends with what there is", async () => {
  const step = fc.oneof(
    fc.record({
      what: fc.constant("put" as const),
      name: fc.integer({ min: 0, max: 12 }),
      node: fc.integer({ min: 0, max: 3 }),
    }),
    fc.record({ what: fc.constant("remove" as const), name: fc.integer({ min: 0, max: 12 }), node: fc.constant(0) }),
    fc.record({
      what: fc.constantFrom("flush" as const, "one" as const, "two" as const, "new" as const),
      name: fc.constant(0),
      node: fc.constant(0),
    }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
      const feed = feedOf();
      const there = new Map<string, KnownPod>();
      const sidecars = [new Sidecar(), new Sidecar()];
      for (const { what, name, node } of steps) {
        if (what === "put") {
          const one = known(`p${name}`, `n${node}`);
          feed.put(one);
          there.set(one.uid, one);
        } else if (what === "remove") {
          feed.remove(`uid-shop-p${name}`);
          there.delete(`uid-shop-p${name}`);
        } else if (what === "flush") feed.flush();
        else if (what === "one") sidecars[0]!.sync(feed);
        else if (what === "two") sidecars[1]!.sync(feed);
        else {
          const fresh = new Sidecar();
          fresh.sync(feed);
          sidecars.push(fresh);
        }
      }
      feed.flush();
      for (const sidecar of sidecars) sidecar.sync(feed);
      feed.close();
      return sidecars.every(({ text }) => text === truth(there));
    }),
    { numRuns: 300 },
  );
});

t.test("what has not changed is not told, and a gap that is too long is told whole", async (t) => {
  const feed = feedOf(3);
  const sidecar = new Sidecar();
  feed.put(known("a", "n1"));
  feed.flush();
  sidecar.sync(feed);
  feed.put(known("a", "n1"));
  feed.flush();
  t.equal(feed.current, 1);
  for (let i = 0; i < 4; i++) {
    feed.put(known("a", `m${i}`));
    feed.flush();
  }
  t.equal(feed.since(1).length, 1);
  t.equal(
    fromBinary(WorkloadsSchema, gunzipSync(feed.since(1)[0]!)).first,
    true,
    "as many changes as pods may be: whole",
  );
  t.equal(fromBinary(WorkloadsSchema, gunzipSync(feed.since(4)[0]!)).first, false);
  sidecar.sync(feed);
  t.same([...sidecar.pods.values()], ["m3 spiffe://td/shop/orders"]);
});

t.test("a state of another process, or of a time to come, is not gone on from", async (t) => {
  const feed = feedOf();
  feed.put(known("a", "n1"));
  feed.flush();
  t.equal(feed.versionOf(`${EPOCH}:1`), 1);
  for (const state of ["", `${EPOCH}:2`, "fedcba9876543210:1", EPOCH]) t.equal(feed.versionOf(state), undefined, state);
});

t.test("many pods come in pieces; replicas share what they have in common", async (t) => {
  let leftOut = 0;
  const feed = feedOf(2_500, () => leftOut++);
  for (let i = 0; i < 2_600; i++) feed.put(known(`p${i}`, `n${i % 7}`));
  feed.flush();
  t.equal(leftOut, 100);
  const pieces = feed.since(undefined).map((bytes) => fromBinary(WorkloadsSchema, gunzipSync(bytes)));
  t.same(
    pieces.map(({ put, first, last, state }) => [put.length, first, last, state]),
    [
      [250, true, false, ""],
      ...Array.from({ length: 8 }, () => [250, false, false, ""]),
      [250, false, true, `${EPOCH}:1`],
    ],
  );
  const feed2 = feedOf();
  for (let i = 0; i < 100; i++) {
    const one = known(`p${i}`, "n1");
    feed2.put({ ...one, kind: { principals: [...one.kind.principals], facts: { namespace: "shop" } } });
  }
  feed2.flush();
  t.equal(fromBinary(WorkloadsSchema, gunzipSync(feed2.since(undefined)[0]!)).kinds.length, 1);
});
