import t from "tap";
import { BaselineStore } from "../../src/baseline/store.ts";
import { toEpochMs } from "../../src/model/units.ts";

const now = (minute: number) => toEpochMs(minute * 60_000);

t.test("the newcomer seen longest ago is forgotten first, within a minute's grace", async (t) => {
  const store = new BaselineStore(2);
  store.touch("a", now(0));
  store.touch("b", now(1));
  store.touch("a", now(3));
  store.touch("c", now(4));
  t.equal(store.get("a")?.requests, 2);
  t.equal(store.get("b"), undefined);
  t.equal(store.evicted, 1);
});

t.test("ten thousand newcomers do not displace an established principal", async (t) => {
  const store = new BaselineStore(100);
  for (let i = 0; i < 20; i++) store.touch("victim", now(i));
  for (let i = 0; i < 10_000; i++) store.touch(`minted-${i}`, now(30));
  t.equal(store.get("victim")?.requests, 20);
  t.ok(store.size <= 100);
});

t.test("becoming established takes twenty requests, and counts once", async (t) => {
  const store = new BaselineStore(1);
  for (let i = 0; i < 19; i++) store.touch("a", now(0));
  store.touch("b", now(0));
  t.equal(store.get("a"), undefined, "19 requests: still one newcomer among others");
  for (let i = 0; i < 20; i++) store.touch("c", now(0));
  store.touch("d", now(0));
  t.equal(store.get("c")?.requests, 20);
  t.equal([...store].filter(({ principal }) => principal === "c").length, 1);
});

t.test("a fleet that starts at once is learned whole, as far as there is room", async (t) => {
  const store = new BaselineStore(100);
  for (let round = 0; round < 25; round++) for (let i = 0; i < 70; i++) store.touch(`caller-${i}`, now(round));
  t.equal(store.size, 70);
  t.equal(store.evicted, 0);
  t.equal(
    [...store].every(({ requests }) => requests === 25),
    true,
  );
});

t.test("there is room for as many established principals as asked for, and newcomers beside them", async (t) => {
  const store = new BaselineStore(100);
  for (let round = 0; round < 25; round++) for (let i = 0; i < 100; i++) store.touch(`caller-${i}`, now(round));
  for (let i = 0; i < 1_000; i++) store.touch(`newcomer-${i}`, now(30));
  t.equal([...store].filter(({ requests }) => requests === 25).length, 100);
  t.equal(store.size, 125);
});

t.test("an established principal that made room stays known by name, a newcomer does not", async (t) => {
  const store = new BaselineStore(10);
  for (let i = 0; i < 50; i++) for (let round = 0; round < 20; round++) store.touch(`caller-${i}`, now(i));
  for (let i = 0; i < 50; i++) store.touch(`newcomer-${i}`, now(60));
  const forgotten = Array.from({ length: 50 }, (_, i) => `caller-${i}`).filter((name) => store.get(name) === undefined);
  t.equal(forgotten.length, 40);
  t.ok(forgotten.every((name) => store.forgotten.has(name)));
  t.notOk(store.forgotten.has("newcomer-0"));
  store.clear();
  t.notOk(store.forgotten.has("caller-0"), "until all is forgotten");
});
