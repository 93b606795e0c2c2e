import fc from "fast-check";
import t from "tap";
import { Recurring } from "../../src/envoy/recurring.ts";

function reader(places: number) {
  let made = 0;
  const recurring = new Recurring(places, (text) => {
    made++;
    return { text };
  });
  const read = (bytes: Buffer) => recurring.read(Buffer.concat([Buffer.from("<"), bytes]), 1, bytes.length + 1);
  return { read, made: () => made };
}

t.test("a text that comes again is not made again", async (t) => {
  const { read, made } = reader(8);
  t.equal(read(Buffer.from("billing/1.0")), read(Buffer.from("billing/1.0")));
  t.equal(made(), 1);
});

t.test("what is long or no ASCII is made each time, and right", async (t) => {
  const { read, made } = reader(8);
  for (const text of ["zoë", "x".repeat(257)]) for (let i = 0; i < 2; i++) t.equal(read(Buffer.from(text)).text, text);
  t.equal(read(Buffer.from([0x61, 0xff])).text, "a\uFFFD");
  t.equal(made(), 5);
});

t.test("whatever comes, in however few places, what is made is of that text", async (t) => {
  const { read } = reader(2);
  fc.assert(fc.property(fc.string({ maxLength: 3 }), (text) => read(Buffer.from(text)).text === text));
  t.throws(() => new Recurring(3, String), RangeError);
});

t.test("ten thousand texts in turn, in three times as many places, are nearly all found again", async (t) => {
  const { read, made } = reader(32_768);
  const texts = Array.from({ length: 10_000 }, (_, i) => Buffer.from(`spiffe://shop.example/ns/shop/sa/caller-${i}`));
  for (let round = 0; round < 10; round++) for (const text of texts) read(text);
  // Ten rounds that remember nothing would make a hundred thousand.
  t.ok(made() < 13_000, `${made()} made`);
});

t.test("what is asked again outlives what comes once", async (t) => {
  const { read, made } = reader(4);
  const steady = Buffer.from("steady");
  for (let i = 0; i < 1_000; i++) {
    read(steady);
    read(steady);
    read(Buffer.from(`once ${i}`));
  }
  t.ok(made() <= 1_004, `${made()} made`);
});
