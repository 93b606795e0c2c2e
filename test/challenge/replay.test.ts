import fc from "fast-check";
import t from "tap";
import { ReplayMemory } from "../../src/challenge/replay.ts";

const LIFE = 1_000;

t.test("a proof is admitted once", async (t) => {
  const memory = new ReplayMemory();
  t.equal(memory.admit("k", "1", 0, LIFE, 0), "first");
  t.equal(memory.admit("k", "1", 0, LIFE, 1), "replayed");
  t.equal(memory.peek("k", "1", 0), "replayed");
});

t.test("the same id by another key is another proof", async (t) => {
  const memory = new ReplayMemory();
  memory.admit("k", "1", 0, LIFE, 0);
  t.equal(memory.admit("l", "1", 0, LIFE, 0), "first");
});

t.test("when full, the oldest is forgotten, and its key must make newer proofs; others are not touched", async (t) => {
  const memory = new ReplayMemory({ proofsMax: 2 });
  memory.admit("busy", "1", 10, 10 + LIFE, 10);
  memory.admit("busy", "2", 11, 11 + LIFE, 11);
  memory.admit("busy", "3", 12, 12 + LIFE, 12);
  t.equal(memory.size, 2);
  t.equal(memory.admit("busy", "1", 10, 10 + LIFE, 13), "forgotten", "the forgotten proof does not come back");
  t.equal(memory.admit("calm", "1", 10, 10 + LIFE, 13), "first");
  t.equal(memory.admit("busy", "4", 13, 13 + LIFE, 13), "first");
});

t.test("when too many keys have a horizon, the oldest horizon holds for all", async (t) => {
  const memory = new ReplayMemory({ proofsMax: 1, horizonsMax: 1 });
  memory.admit("a", "1", 10, 10 + LIFE, 10);
  memory.admit("b", "1", 20, 20 + LIFE, 20);
  memory.admit("c", "1", 30, 30 + LIFE, 30);
  t.equal(memory.peek("a", "1", 10), "forgotten");
  t.equal(memory.peek("z", "1", 10), "forgotten");
  t.equal(memory.peek("b", "1", 20), "forgotten");
  t.equal(memory.peek("z", "1", 11), "first");
});

t.test("expired proofs make room without a horizon", async (t) => {
  const memory = new ReplayMemory({ proofsMax: 2 });
  memory.admit("k", "1", 0, 100, 0);
  memory.admit("k", "2", 0, 100, 0);
  t.equal(memory.admit("k", "3", 0, 1_000, 101), "first");
  t.equal(memory.admit("k", "4", 0, 1_000, 101), "first");
  t.equal(memory.size, 2);
});

t.test("proofs from before a start are forgotten: they may have been spent", async (t) => {
  const memory = new ReplayMemory({ startedAtMs: 100 });
  t.equal(memory.peek("k", "1", 99), "forgotten");
  t.equal(memory.peek("k", "1", 100), "first");
});

t.test("however small the table, no living proof is ever admitted twice, and the table keeps its bound", async () => {
  const use = fc.record({ key: fc.nat(3), id: fc.nat(20), step: fc.nat(30) });
  fc.assert(
    fc.property(fc.array(use, { maxLength: 200 }), fc.integer({ min: 1, max: 6 }), (uses, proofsMax) => {
      const memory = new ReplayMemory({ proofsMax, horizonsMax: 2 });
      const spent = new Set<string>();
      let now = 0;
      for (const { key, id, step } of uses) {
        now += step;
        const madeAtMs = id * 20;
        if (madeAtMs > now + 20 || now - madeAtMs > LIFE) continue;
        const name = `${key} ${id}`;
        const admitted = memory.admit(`${key}`, `${id}`, madeAtMs, madeAtMs + LIFE, now);
        if (admitted === "first" && spent.has(name)) return false;
        if (admitted === "first") spent.add(name);
        if (memory.size > proofsMax) return false;
      }
      return true;
    }),
  );
});
