import fc from "fast-check";
import t from "tap";
import {
  FIELD_CHARS_MAX,
  parseDictionary,
  parseItem,
  parseList,
  serialiseDictionary,
  serialiseItem,
  serialiseList,
} from "../../src/challenge/structured-fields.ts";

const dictionaries = [
  ['en="Applepie", da=:w4ZibGV0w6ZydGU=:', 'en="Applepie", da=:w4ZibGV0w6ZydGU=:'],
  ["a=?0, b, c; foo=bar", "a=?0, b, c;foo=bar"],
  ["rating=1.5, feelings=(joy sadness)", "rating=1.5, feelings=(joy sadness)"],
  ["a=(1 2), b=3, c=4;aa=bb, d=(5 6);valid", "a=(1 2), b=3, c=4;aa=bb, d=(5 6);valid"],
  ["a=1,b=2\t,\tc=3", "a=1, b=2, c=3"],
  ["a=1, b=2, a=3", "b=2, a=3"],
  ["a=@1659578233", "a=@1659578233"],
  ['a="\\"\\\\"', 'a="\\"\\\\"'],
  ["a=( 1   2 )", "a=(1 2)"],
  ["  a=1  ", "a=1"],
  ["", ""],
] as const;
for (const [text, want] of dictionaries) {
  t.test(`${JSON.stringify(text)} is a dictionary`, async (t) => {
    const members = parseDictionary(text);
    t.equal(members && serialiseDictionary(members), want);
  });
}

const refused = [
  "a=1,",
  ",a=1",
  "a=1 b=2",
  "A=1",
  "a=",
  "a==1",
  "a=(1",
  "a=(1,2)",
  'a=(1"x")',
  'a="x',
  'a="\\x"',
  'a="é"',
  "a=:AA",
  "a=:A:",
  "a=:AB==C:",
  "a=:AA===:",
  "a=:!:",
  "a=?2",
  "a=1.2345",
  "a=1.",
  "a=1234567890123456",
  "a=1234567890123.0",
  "a=--1",
  "a=@1.5",
  "a;=1",
  "\ta=1",
  `a="${"x".repeat(FIELD_CHARS_MAX)}"`,
  `a=(${"1 ".repeat(300)})`,
  `a${";x".repeat(300)}`,
];
for (const text of refused) {
  t.test(`${JSON.stringify(text.slice(0, 30))} is none`, async (t) => {
    t.equal(parseDictionary(text), undefined);
  });
}

t.test("lists and items are read and written", async (t) => {
  const list = parseList('sugar, (tea "rum");a=1, 4.0;b=?0');
  t.equal(list && serialiseList(list), 'sugar, (tea "rum");a=1, 4.0;b=?0');
  const item = parseItem("text/html;q=-1.500");
  t.equal(item && serialiseItem(item), "text/html;q=-1.5");
  t.equal(parseItem("1, 2"), undefined);
});

t.test("no text makes reading fail, and what is written is read back the same", async () => {
  const part = fc.constantFrom(
    "a",
    "=",
    "(",
    ")",
    ";",
    ",",
    " ",
    '"',
    "\\",
    ":",
    "AA==",
    "?1",
    "@",
    "-",
    "1",
    ".",
    "é",
  );
  fc.assert(
    fc.property(fc.array(part, { maxLength: 40 }), (parts) => {
      const members = parseDictionary(parts.join(""));
      if (members === undefined) return true;
      const written = serialiseDictionary(members);
      const again = parseDictionary(written);
      return again !== undefined && serialiseDictionary(again) === written;
    }),
    { numRuns: 2_000 },
  );
});
