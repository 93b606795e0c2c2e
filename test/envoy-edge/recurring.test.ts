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
