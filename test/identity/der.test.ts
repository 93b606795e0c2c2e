import t from "tap";
import { DerCursor, DerError, isSame, NONE, TAG } from "../../src/identity/der.ts";
import { hex } from "../support/der.ts";

function at(digits: string): DerCursor {
  const cursor = new DerCursor();
  // What lies around is never read.
  const bytes = hex(`30 ${digits} 0500`);
  cursor.begin(bytes, 1, bytes.length - 2);
  return cursor;
}

/** Content of what was passed, in digits. */
function passed(cursor: DerCursor): string {
  return cursor.bytes.toString("hex", cursor.start, cursor.end);
}

const long = "aa".repeat(0x80);
const longer = "aa".repeat(0x100);

const lengths = [
  { name: "no content", digits: "0400", content: "" },
  { name: "a short length", digits: "0402aabb", content: "aabb" },
  { name: "a length of one more octet", digits: `048180${long}`, content: long },
  { name: "a length of two more octets", digits: `04820100${longer}`, content: longer },
  { name: "nothing", digits: "", content: undefined },
  { name: "a tag alone", digits: "04", content: undefined },
  { name: "another tag", digits: "0500", content: undefined },
  { name: "a length beyond the end", digits: "0403aabb", content: undefined },
  { name: "the indefinite form", digits: "0480aa0000", content: undefined },
  { name: "a length in one octet too many", digits: "04817faa", content: undefined },
  { name: "a length in one more octet too many", digits: `048200ff${"aa".repeat(0xff)}`, content: undefined },
  { name: "a length of three more octets", digits: `0483010000${"aa".repeat(0x10000)}`, content: undefined },
  { name: "a length that is cut off", digits: "0481", content: undefined },
  { name: "a longer length that is cut off", digits: "048201", content: undefined },
  { name: "a length of 127 octets", digits: "04ff", content: undefined },
];
for (const { name, digits, content } of lengths) {
  t.test(`${name}: ${content === undefined ? "refused" : "passed"}`, async (t) => {
    const cursor = at(digits);
    if (content === undefined) {
      t.throws(() => cursor.pass(TAG.octetString), { name: "DerError" });
      return;
    }
    cursor.pass(TAG.octetString);
    t.equal(passed(cursor), content);
    t.equal(cursor.next(), NONE);
  });
}

t.test("nothing is read beyond the element that was entered", async (t) => {
  const cursor = at("3004 0402aabb 0401cc");
  const outer = cursor.enter(TAG.sequence);
  cursor.pass(TAG.octetString);
  t.equal(cursor.next(), NONE);
  t.throws(() => cursor.pass(TAG.octetString), DerError);
  cursor.leave(outer);
  cursor.pass(TAG.octetString);
  t.equal(passed(cursor), "cc");

  const greedy = at("3003 0402aa 04");
  greedy.enter(TAG.sequence);
  t.throws(() => greedy.pass(TAG.octetString), DerError, "nor does a length reach out of it");
});

t.test("an element is left when all of it was read", async (t) => {
  const cursor = at("3004 0500 0500");
  const outer = cursor.enter(TAG.sequence);
  cursor.pass(TAG.null);
  t.throws(() => cursor.leave(outer), DerError);
});

t.test("what was passed can be entered afterwards", async (t) => {
  const cursor = at("3003 0401aa 0500");
  t.same(cursor.whole(TAG.sequence), { start: 1, end: 6 });
  const outer = cursor.enterPassed();
  cursor.pass(TAG.octetString);
  cursor.leave(outer);
  t.equal(cursor.next(), TAG.null);
});

type Read = (cursor: DerCursor) => unknown;
const integer: Read = (cursor) => {
  cursor.integer();
  return passed(cursor);
};
const bits: Read = (cursor) => [cursor.bitString(), passed(cursor)];
const octets: Read = (cursor) => {
  cursor.octetsInBits();
  return passed(cursor);
};
const identifier: Read = (cursor) => {
  cursor.objectIdentifier();
  return passed(cursor);
};
const boolean: Read = (cursor) => cursor.boolean();
const any: Read = (cursor) => {
  cursor.passAny();
  return passed(cursor);
};

/** What is read; what is not is refused. */
const forms: readonly (readonly [name: string, read: Read, digits: string, what?: unknown])[] = [
  ["TRUE", boolean, "0101ff", true],
  ["FALSE", boolean, "010100", false],
  ["half true", boolean, "010101"],
  ["no boolean", boolean, "0100"],
  ["two booleans", boolean, "0102ffff"],
  ["zero", integer, "020100", "00"],
  ["a number", integer, "02020080", "0080"],
  ["a number below zero", integer, "0202ff7f", "ff7f"],
  ["no number", integer, "0200"],
  ["a number with a zero too many", integer, "0202007f"],
  ["a number below zero with an octet too many", integer, "0202ff80"],
  ["no bits", bits, "030100", [0, ""]],
  ["bits", bits, "030204f0", [4, "f0"]],
  ["no count", bits, "0300"],
  ["no bits of which some are not used", bits, "030101"],
  ["eight unused bits", bits, "03020800"],
  ["unused bits that are set", bits, "030204f8"],
  ["octets", octets, "030300aabb", "aabb"],
  ["octets with bits", octets, "030204f0"],
  ["an identifier", identifier, "06032a8648", "2a8648"],
  ["an identifier that is cut off", identifier, "06022a86"],
  ["an identifier of a large number", identifier, "06032a8601", "2a8601"],
  ["no identifier", identifier, "0600"],
  ["an identifier with a leading zero", identifier, "06032a8001"],
  ["an identifier that begins with a zero too many", identifier, "06028001"],
  ["an identifier of 64 octets", identifier, `0640${"01".repeat(64)}`, "01".repeat(64)],
  ["an identifier of 65 octets", identifier, `0641${"01".repeat(65)}`],
  ["any text", any, "0c0161", "61"],
  ["any sequence, whatever is in it", any, "3001ff", "ff"],
  ["any set", any, "3100", ""],
  ["any element of a context", any, "8001aa", "aa"],
  ["NULL", any, "0500", ""],
  ["NULL that is not empty", any, "0501aa"],
  ["any number that is none", any, "0200"],
  ["any bits that are none", any, "0300"],
  ["any boolean that is none", any, "0100"],
  ["any identifier that is none", any, "0600"],
  ["any text of two octets a character", any, "1e020061", "0061"],
  ["any text of two octets a character that is cut off", any, "1e0100"],
  ["any text of four octets a character that is cut off", any, "1c020061"],
  ["the end of an indefinite form", any, "0000"],
  ["the end of an indefinite form that holds something", any, "2000"],
  ["a text in pieces", any, "2c030c0161"],
  ["octets in pieces", any, "24030401aa"],
  ["a sequence that holds nothing by its form", any, "1000"],
  ["a set that holds nothing by its form", any, "1100"],
  ["a tag of several octets", any, "1f0100"],
  ["a tag of several octets of a context", any, "bf0100"],
  ["nothing at all", any, ""],
];
for (const [name, read, digits, what] of forms) {
  t.test(`${name}: ${what === undefined ? "refused" : "read"}`, async (t) => {
    if (what === undefined) t.throws(() => read(at(digits)), { name: "DerError" });
    else t.same(read(at(digits)), what);
  });
}

t.test("octets are the same when they are as many and alike", async (t) => {
  const bytes = hex("aabb aabb aacc");
  t.equal(isSame(bytes, { start: 0, end: 2 }, { start: 2, end: 4 }), true);
  t.equal(isSame(bytes, { start: 0, end: 2 }, { start: 4, end: 6 }), false);
  t.equal(isSame(bytes, { start: 0, end: 1 }, { start: 2, end: 4 }), false);
  t.equal(isSame(bytes, { start: 0, end: 0 }, { start: 6, end: 6 }), true);
});
