import fc from "fast-check";
import t from "tap";
import { parseSpiffeId } from "../../src/identity/spiffe.ts";

const valid = [
  { text: "spiffe://example.org/ns/shop/sa/billing", trustDomain: "example.org", path: "/ns/shop/sa/billing" },
  { text: "spiffe://a", trustDomain: "a", path: "" },
  { text: "spiffe://1_2-3.x/Az09._-", trustDomain: "1_2-3.x", path: "/Az09._-" },
  { text: `spiffe://${"a".repeat(255)}/x`, trustDomain: "a".repeat(255), path: "/x" },
];
for (const { text, trustDomain, path } of valid) {
  t.test(`${text.slice(0, 40)} is valid`, async (t) => {
    t.same(parseSpiffeId(text), { ok: true, id: { trustDomain, path } });
  });
}

const invalid = [
  ["", "is empty"],
  ["spiffe:/example.org", "does not begin with spiffe://"],
  ["SPIFFE://example.org", "does not begin with spiffe://"],
  ["https://example.org/a", "does not begin with spiffe://"],
  ["spiffe://", "has no trust domain"],
  ["spiffe:///path", "has no trust domain"],
  ["spiffe://Example.org", "has a trust domain with characters other than a-z 0-9 . _ -"],
  ["spiffe://user@example.org", "has a trust domain with characters other than a-z 0-9 . _ -"],
  ["spiffe://example.org:8443/a", "has a trust domain with characters other than a-z 0-9 . _ -"],
  ["spiffe://example.org/", "has an empty path segment"],
  ["spiffe://example.org/a/", "has an empty path segment"],
  ["spiffe://example.org/a//b", "has an empty path segment"],
  ["spiffe://example.org/./a", "has a relative path segment"],
  ["spiffe://example.org/a/..", "has a relative path segment"],
  ["spiffe://example.org/a%2fb", "has a path segment with characters other than a-z A-Z 0-9 . _ -"],
  ["spiffe://example.org/a?b", "has a path segment with characters other than a-z A-Z 0-9 . _ -"],
  ["spiffe://example.org/a#b", "has a path segment with characters other than a-z A-Z 0-9 . _ -"],
  ["spiffe://example.org/ä", "has a path segment with characters other than a-z A-Z 0-9 . _ -"],
  [`spiffe://${"a".repeat(256)}/x`, "has a trust domain longer than 255 bytes"],
  [`spiffe://a/${"x".repeat(2038)}`, "is longer than 2048 bytes"],
] as const;
for (const [text, why] of invalid) {
  t.test(`${JSON.stringify(text.slice(0, 40))} ${why}`, async (t) => {
    t.same(parseSpiffeId(text), { ok: false, why });
  });
}

t.test("2,048 bytes are still accepted", async (t) => {
  t.equal(parseSpiffeId(`spiffe://a/${"x".repeat(2037)}`).ok, true);
});

t.test("what is accepted is rebuilt from its parts, and nothing throws", async () => {
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.string().map((rest) => `spiffe://td/${rest}`),
      ),
      (text) => {
        const parsed = parseSpiffeId(text);
        return !parsed.ok || `spiffe://${parsed.id.trustDomain}${parsed.id.path}` === text;
      },
    ),
  );
});
