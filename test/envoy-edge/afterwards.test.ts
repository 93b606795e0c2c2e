import t from "tap";
import { Afterwards } from "../../src/envoy/afterwards.ts";

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

t.test("everything is done once, in order, and nothing before the turn is over", async (t) => {
  const done: number[] = [];
  const afterwards = new Afterwards<number>(
    (item) => done.push(item),
    (error) => t.error(error),
  );
  for (let i = 0; i < 1_000; i++) afterwards.add(i);
  t.same(done, []);
  t.equal(afterwards.size, 1_000);
  for (let turns = 0; turns < 1_000 && afterwards.size > 0; turns++) await turn();
  t.same(
    done,
    Array.from({ length: 1_000 }, (_, i) => i),
  );
  afterwards.add(1_000);
  await turn();
  t.equal(done.at(-1), 1_000, "and what comes later is done later");
});

t.test("further work of the event loop comes in between", async (t) => {
  let done = 0;
  const afterwards = new Afterwards<number>(
    () => done++,
    (error) => t.error(error),
  );
  for (let i = 0; i < 1_000; i++) afterwards.add(i);
  await turn();
  await turn();
  t.ok(done > 0 && done < 1_000, "some are done, others wait");
  afterwards.flush();
  t.equal(done, 1_000);
  t.equal(afterwards.size, 0);
});

t.test("an item that fails is told of and keeps no other from being done", async (t) => {
  const done: number[] = [];
  const failed: unknown[] = [];
  const afterwards = new Afterwards<number>(
    (item) => {
      if (item === 1) throw new Error("one");
      done.push(item);
    },
    (error) => failed.push(error),
  );
  for (const item of [0, 1, 2]) afterwards.add(item);
  await turn();
  t.same(done, [0, 2]);
  t.match(failed, [{ message: "one" }]);
});

t.test("a backlog without end is done at once", async (t) => {
  let done = 0;
  const afterwards = new Afterwards<number>(
    () => done++,
    (error) => t.error(error),
  );
  for (let i = 0; i < 10_000; i++) afterwards.add(i);
  t.ok(done > 0, "memory is bounded");
  t.ok(afterwards.size < 10_000);
});
