import fc from "fast-check";
import t from "tap";
import { normaliseUri } from "../../src/challenge/target-uri.ts";

const same = [
  ["HTTPS://Orders.Example/a", "https://orders.example/a"],
  ["https://orders.example:443/a", "https://orders.example/a"],
  ["http://orders.example:80", "http://orders.example/"],
  ["https://orders.example:/a", "https://orders.example/a"],
  ["https://orders.example/%7euser/%c3%a9", "https://orders.example/~user/%C3%A9"],
  ["https://orders.example/a/./b/../c", "https://orders.example/a/c"],
  ["https://orders.example/a/..", "https://orders.example/"],
  ["https://orders.example/../../a", "https://orders.example/a"],
  ["https://orders.example/a/.", "https://orders.example/a/"],
  ["https://orders.example/a?b=c#d", "https://orders.example/a"],
  ["https://[2001:DB8::1]:8443/a", "https://[2001:db8::1]:8443/a"],
] as const;
for (const [uri, want] of same) {
  t.test(`${uri} is ${want}`, async (t) => {
    t.equal(normaliseUri(uri), want);
  });
}

const different = [
  ["https://orders.example:80/a", "https://orders.example/a"],
  ["https://orders.example/a/", "https://orders.example/a"],
  ["https://orders.example/A", "https://orders.example/a"],
  ["https://orders.example/a%2Fb", "https://orders.example/a/b"],
  ["https://orders.example//a", "https://orders.example/a"],
] as const;
for (const [left, right] of different) {
  t.test(`${left} is not ${right}`, async (t) => {
    t.not(normaliseUri(left), normaliseUri(right));
  });
}

const refused = [
  "/a",
  "ftp://orders.example/a",
  "https:///a",
  "https://user@orders.example/",
  "https://orders.example\\@evil.example/",
  "https://orders.example/a b",
  "https://orders.example/\t",
  "https://orders.example/%zz",
  "https://orders.example/%4",
  "https://orders.example:8a/",
  `https://orders.example/${"a".repeat(5_000)}`,
  "",
];
for (const uri of refused) {
  t.test(`${JSON.stringify(uri.slice(0, 50))} is no URI to compare`, async (t) => {
    t.equal(normaliseUri(uri), undefined);
  });
}

t.test("normalising twice changes nothing more, and no text makes it fail", async () => {
  const part = fc.constantFrom("a", "..", ".", "/", "%41", "%2f", "%", "?", "#", ":", "@", "[", "]", "é", "//");
  fc.assert(
    fc.property(fc.array(part, { maxLength: 30 }), (parts) => {
      const once = normaliseUri(`https://h.example/${parts.join("")}`);
      return once === undefined || normaliseUri(once) === once;
    }),
  );
  fc.assert(
    fc.property(fc.string({ unit: "binary" }), (text) => {
      normaliseUri(text);
    }),
  );
});
