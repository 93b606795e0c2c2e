import { setTimeout as pause } from "node:timers/promises";
import t from "tap";
import { release } from "../../src/server/state-files.ts";

const MIB = 1_048_576;

t.test("memory of bytes that are released is given back without a collection", async (t) => {
  const before = process.memoryUsage().arrayBuffers;
  const bytes = new Uint8Array(256 * MIB);
  t.ok(process.memoryUsage().arrayBuffers - before > 200 * MIB);
  release(bytes);
  t.equal(bytes.length, 0);
  while (process.memoryUsage().arrayBuffers - before > 100 * MIB) await pause(1);
});

t.test("bytes that share their memory with others stay as they are", async (t) => {
  const whole = Uint8Array.of(1, 2, 3, 4);
  release(whole.subarray(1, 3));
  t.same([...whole], [1, 2, 3, 4]);
  const shared = new Uint8Array(new SharedArrayBuffer(2));
  release(shared);
  t.equal(shared.length, 2);
});
