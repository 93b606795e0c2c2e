/** Tests that what is written and read by hand is what the schema says, and what comes of bytes that are neither. */

import { gzipSync } from "node:zlib";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import t from "tap";
import { PodsTold } from "../../../src/bundle/sync/pods-told.ts";
import {
  readWorkloads,
  type WireWorkloads,
  writeKind,
  writePod,
  writeWorkloads,
} from "../../../src/bundle/sync/workload-wire.ts";
import { WorkloadsSchema } from "../../../src/gen/sallyport/control/v1/control_pb.ts";
import type { WorkloadChange } from "../../../src/model/workloads.ts";

const text = fc.string({ unit: "grapheme", maxLength: 12 }).filter((one) => one !== "__proto__");
const facts = fc.dictionary(text, text, { maxKeys: 5, noNullPrototype: true });
const workloads: fc.Arbitrary<WireWorkloads> = fc.record({
  kinds: fc.array(fc.record({ principals: fc.array(text, { maxLength: 3 }), facts }), { maxLength: 4 }),
  put: fc.array(
    fc.record({
      uid: text,
      kind: fc.nat(300),
      addresses: fc.array(text, { maxLength: 3 }),
      facts,
      shared: fc.boolean(),
    }),
    { maxLength: 6 },
  ),
  removed: fc.array(text, { maxLength: 4 }),
  first: fc.boolean(),
  last: fc.boolean(),
  state: text,
});

const plain = (value: unknown): unknown =>
  JSON.parse(JSON.stringify(value, (key, inner) => (key === "$typeName" ? undefined : inner)));
const same = (text: string): string => text;

t.test("law: what is written reads as the schema's own code reads it, and the other way round", async (t) => {
  fc.assert(
    fc.property(workloads, (one) => {
      const written = writeWorkloads({
        ...one,
        kinds: one.kinds.map(writeKind),
        put: one.put.map((pod) => ({ pod: writePod(pod), kind: pod.kind })),
      });
      const read = fromBinary(WorkloadsSchema, written);
      const back = readWorkloads(toBinary(WorkloadsSchema, create(WorkloadsSchema, plain(one) as object)), same);
      t.same(plain(read), plain(one));
      t.same(plain(back), plain(one));
      return true;
    }),
    { numRuns: 200 },
  );
});

t.test("fields of later versions are skipped, and a fact may not be the object's own prototype", async (t) => {
  const kind = writeKind({ principals: ["a"], facts: { x: "y" } });
  const later = Buffer.from([0x7a, 2, 1, 2, 0x80, 0x02, 5]); // field 15 with two bytes, field 32 with a number
  const message = writeWorkloads({
    kinds: [Buffer.concat([kind, later])],
    put: [],
    removed: [],
    first: true,
    last: true,
    state: "s",
  });
  t.same(readWorkloads(Buffer.concat([message, later]), same).kinds, [{ principals: ["a"], facts: { x: "y" } }]);
  const entry = Buffer.from([0x12, 14, 0x0a, 9, ...Buffer.from("__proto__"), 0x12, 1, 0x78]);
  const read = readWorkloads(
    writeWorkloads({ kinds: [entry], put: [], removed: [], first: true, last: true, state: "" }),
    same,
  );
  t.equal(Object.getPrototypeOf(read.kinds[0]!.facts), Object.prototype);
  t.same(read.kinds[0]!.facts, {});
});

function listening() {
  const told: string[] = [];
  const changes: WorkloadChange[] = [];
  const pods = new PodsTold({
    state: "",
    changed: (change, state) => {
      changes.push(change);
      told.push(`changed ${state}`);
    },
    heard: () => told.push("heard"),
    lost: (unreadable) => told.push(unreadable ? "unreadable" : "lost"),
  });
  return { pods, told, changes };
}

const good = writeWorkloads({
  kinds: [writeKind({ principals: ["p"], facts: { namespace: "shop" } })],
  put: [{ pod: writePod({ uid: "u", addresses: ["10.0.0.1"], facts: { pod: "a" }, shared: false }), kind: 0 }],
  removed: ["gone"],
  first: true,
  last: true,
  state: "s",
});

t.test("a message becomes pods", async (t) => {
  const { pods, changes, told } = listening();
  pods.take(gzipSync(good));
  pods.heard(5, false);
  t.same(told, ["changed s", "heard"]);
  t.same(changes, [
    {
      first: true,
      last: true,
      removed: ["gone"],
      put: [
        {
          uid: "u",
          principals: ["p"],
          addresses: ["10.0.0.1"],
          shared: false,
          common: { namespace: "shop" },
          own: { pod: "a" },
        },
      ],
    },
  ]);
});

const bad: readonly { name: string; bytes: Uint8Array }[] = [
  { name: "no gzip", bytes: good },
  { name: "torn gzip", bytes: gzipSync(good).subarray(0, 20) },
  { name: "a torn message", bytes: gzipSync(good.subarray(0, good.length - 6)) },
  {
    name: "a pod of no kind",
    bytes: gzipSync(
      writeWorkloads({
        kinds: [],
        put: [{ pod: new Uint8Array(), kind: 3 }],
        removed: [],
        first: true,
        last: true,
        state: "",
      }),
    ),
  },
  { name: "more than fits", bytes: gzipSync(Buffer.alloc(17 * 1024 * 1024)) },
];
for (const { name, bytes } of bad) {
  t.test(`after ${name} nothing more is believed on this connection`, async (t) => {
    const { pods, told } = listening();
    pods.take(bytes);
    pods.take(gzipSync(good));
    pods.heard(0, false);
    t.same(told, ["unreadable"]);
  });
}

t.test("law: whatever bytes come, nothing is thrown", async () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      const { pods, told } = listening();
      pods.take(gzipSync(bytes));
      return told.length === 1;
    }),
    { numRuns: 300 },
  );
});
