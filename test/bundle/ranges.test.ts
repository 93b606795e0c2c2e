/** Tests the look-up of addresses in ranges, against Node's own. */

import { BlockList, isIP } from "node:net";
import fc from "fast-check";
import t from "tap";
import { readAddress, readRange } from "../../src/bundle/address.ts";
import { buildAddressLists } from "../../src/bundle/ranges.ts";
import type { AddressLists, ListHit } from "../../src/model/policy.ts";

function hit(list: string, bits = 5, action: ListHit["action"] = "score"): ListHit {
  return { list, action, bits, reason: list };
}

function lists(...entries: readonly (readonly [string, ListHit])[]): AddressLists {
  return listsOf(entries);
}

function listsOf(entries: readonly (readonly [string, ListHit])[]): AddressLists {
  return buildAddressLists(entries.map(([text, hit]) => ({ range: readRange(text)!, hit })));
}

const octets = fc.array(fc.nat(255), { minLength: 4, maxLength: 4 });
const ipv4 = octets.map((parts) => parts.join("."));
/** Few distinct values, so that ranges nest, touch and repeat. */
const closeIpv4 = fc
  .array(fc.constantFrom(0, 1, 127, 128, 255), { minLength: 4, maxLength: 4 })
  .map((p) => p.join("."));
const closeIpv6 = fc
  .array(fc.constantFrom("0", "1", "8000", "ffff", "2001"), { minLength: 7, maxLength: 7 })
  .map((parts) => `2001:${parts.join(":")}`);

t.test("an IPv4 address is found exactly where Node finds it", async () => {
  const range = fc.tuple(fc.oneof(closeIpv4, ipv4), fc.nat(32));
  fc.assert(
    fc.property(fc.array(range, { maxLength: 30 }), fc.array(fc.oneof(closeIpv4, ipv4)), (ranges, addresses) => {
      const built = lists(...ranges.map(([text, prefix]) => [`${text}/${prefix}`, hit("a")] as const));
      const node = new BlockList();
      for (const [text, prefix] of ranges) node.addSubnet(text, prefix, "ipv4");
      return addresses.every(
        (address) =>
          (built.lookup(address) !== undefined) === node.check(address, "ipv4") &&
          (built.lookup(`::ffff:${address}`) !== undefined) === node.check(address, "ipv4"),
      );
    }),
    { numRuns: 2_000, interruptAfterTimeLimit: 15_000 },
  );
});

t.test("an IPv6 address is found exactly where Node finds it", async () => {
  const address = fc.oneof(
    closeIpv6,
    fc.ipV6().filter((text) => !text.includes(".") && !text.startsWith("::")),
  );
  const range = fc.tuple(address, fc.nat(128));
  fc.assert(
    fc.property(fc.array(range, { maxLength: 30 }), fc.array(address), (ranges, addresses) => {
      const built = lists(...ranges.map(([text, prefix]) => [`${text}/${prefix}`, hit("a")] as const));
      const node = new BlockList();
      for (const [text, prefix] of ranges) node.addSubnet(text, prefix, "ipv6");
      return addresses.every((text) => (built.lookup(text) !== undefined) === node.check(text, "ipv6"));
    }),
    { numRuns: 1_000, interruptAfterTimeLimit: 15_000 },
  );
});

t.test("the narrowest range counts", async () => {
  const range = fc.tuple(closeIpv4, fc.nat(32));
  fc.assert(
    fc.property(fc.array(range, { minLength: 1, maxLength: 20 }), closeIpv4, (ranges, address) => {
      const built = lists(...ranges.map(([text, prefix]) => [`${text}/${prefix}`, hit(String(prefix))] as const));
      const containing = ranges.filter(([text, prefix]) => {
        const node = new BlockList();
        node.addSubnet(text, prefix, "ipv4");
        return node.check(address, "ipv4");
      });
      const narrowest =
        containing.length === 0 ? undefined : String(Math.max(...containing.map(([, prefix]) => prefix)));
      return built.lookup(address)?.list === narrowest;
    }),
    { numRuns: 2_000, interruptAfterTimeLimit: 15_000 },
  );
});

t.test("of equal ranges a block counts, then the most bits, then the first", async (t) => {
  const range = "192.0.2.0/24";
  const found = (...hits: ListHit[]): string | undefined =>
    lists(...hits.map((hit) => [range, hit] as const)).lookup("192.0.2.7")?.list;
  t.equal(found(hit("a", 9), hit("b", 1, "block")), "b");
  t.equal(found(hit("a", 1, "block"), hit("b", 9)), "a");
  t.equal(found(hit("a", 4), hit("b", 5)), "b");
  t.equal(found(hit("a", 5), hit("b", 4)), "a");
  t.equal(found(hit("a", 5), hit("b", 5)), "a");
});

t.test("the first and last address of each range are in it, and their neighbours are not", async (t) => {
  const built = lists(
    ["10.0.0.0/8", hit("ten")],
    ["255.255.255.255", hit("last")],
    ["0.0.0.0", hit("first")],
    ["2001:db8::/32", hit("doc")],
    ["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", hit("last6")],
    ["::ffff:192.0.2.0/120", hit("mapped")],
  );
  const found = (address: string): string | undefined => built.lookup(address)?.list;
  t.equal(found("9.255.255.255"), undefined);
  t.equal(found("10.0.0.0"), "ten");
  t.equal(found("10.255.255.255"), "ten");
  t.equal(found("11.0.0.0"), undefined);
  t.equal(found("255.255.255.255"), "last");
  t.equal(found("255.255.255.254"), undefined);
  t.equal(found("0.0.0.0"), "first");
  t.equal(found("0.0.0.1"), undefined);
  t.equal(found("2001:db7:ffff:ffff:ffff:ffff:ffff:ffff"), undefined);
  t.equal(found("2001:db8::"), "doc");
  t.equal(found("2001:DB8:ffff:ffff:ffff:ffff:ffff:ffff"), "doc");
  t.equal(found("2001:db9::"), undefined);
  t.equal(found("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), "last6");
  t.equal(found("192.0.2.255"), "mapped");
  t.equal(found("192.0.3.0"), undefined);
  t.equal(found("nonsense"), undefined);
  t.equal(built.size, 6);
});

t.test("200,000 ranges of both families are found, each with its own hit", async (t) => {
  const count = 100_000;
  const entries = Array.from({ length: count }, (_, index) => {
    const high = index >>> 8;
    const four = `${high >>> 8}.${high & 255}.${index & 255}.128/25`;
    const six = `2001:${(index >>> 16).toString(16)}:${(index & 0xffff).toString(16)}::/48`;
    return [
      [four, hit(four)],
      [six, hit(six)],
    ] as const;
  }).flat();
  const built = listsOf(entries);
  t.equal(built.size, 200_000);
  t.equal(built.lookup("1.134.159.200")?.list, "1.134.159.128/25");
  t.equal(built.lookup("1.134.159.127"), undefined);
  t.equal(built.lookup("1.134.160.200"), undefined);
  t.equal(built.lookup("2001:1:869f:1::5")?.list, "2001:1:869f::/48");
  t.equal(built.lookup("2001:1:86a0::"), undefined);
});

t.test("what is an address is what Node takes for one", async () => {
  const words = new Uint32Array(4);
  const near = fc.string({
    unit: fc.constantFrom(":", "::", ".", "0", "1", "25", "255", "ffff", "a", "/", "g"),
    maxLength: 17,
  });
  const text = fc.oneof(near, fc.ipV4(), fc.ipV6(), closeIpv6);
  fc.assert(
    fc.property(text, (text) => {
      const family = readAddress(text, words);
      const mapped = family === 4 && text.includes(":");
      return (mapped ? 6 : family) === isIP(text);
    }),
    { numRuns: 20_000, interruptAfterTimeLimit: 15_000 },
  );
});

const addresses = [
  { text: "192.0.2.7", family: 4, words: [0, 0, 0, 0xc0000207] },
  { text: "::ffff:192.0.2.7", family: 4, words: [0, 0, 0xffff, 0xc0000207] },
  { text: "::FFFF:c000:207", family: 4, words: [0, 0, 0xffff, 0xc0000207] },
  { text: "::", family: 6, words: [0, 0, 0, 0] },
  { text: "::1", family: 6, words: [0, 0, 0, 1] },
  { text: "2001:db8::8:800:200c:417a", family: 6, words: [0x20010db8, 0, 0x00080800, 0x200c417a] },
  { text: "64:ff9b::192.0.2.33", family: 6, words: [0x0064ff9b, 0, 0, 0xc0000221] },
];
for (const { text, family, words: wanted } of addresses) {
  t.test(`${text} is read as its words`, async (t) => {
    const words = new Uint32Array(4);
    t.equal(readAddress(text, words), family);
    t.same([...words], wanted);
  });
}

const noAddresses = [
  "",
  "1",
  "1.2.3",
  "1.2.3.4.5",
  "01.2.3.4",
  "256.1.1.1",
  "1.2.3.4 ",
  " 1.2.3.4",
  "1..2.3",
  "1:2",
  ":::",
  "::1%eth0",
  "1::2::3",
  "12345::",
  "::g",
  "1:2:3:4:5:6:7:8:9",
  "1:2:3:4:5:6:7::8:9",
  ":1",
  "1:",
  "::1.2.3",
  "1.2.3.4::",
];
for (const text of noAddresses) {
  t.test(`${JSON.stringify(text)} is no address`, async (t) => {
    t.equal(readAddress(text, new Uint32Array(4)), 0);
  });
}

const ranges = [
  { text: "192.0.2.77/24", family: 4, first: 0xc0000200, prefix: 24 },
  { text: "192.0.2.77", family: 4, first: 0xc000024d, prefix: 32 },
  { text: "0.0.0.0/0", family: 4, first: 0, prefix: 0 },
  { text: "::ffff:192.0.2.77/120", family: 4, first: 0xc0000200, prefix: 24 },
  { text: "::ffff:192.0.2.77/95", family: 6, first: 0, prefix: 95 },
  { text: "2001:db8::7/127", family: 6, first: 6, prefix: 127 },
];
for (const { text, family, first, prefix } of ranges) {
  t.test(`${text} is read as a range, with the bits beyond its prefix cleared`, async (t) => {
    const range = readRange(text);
    t.match(range, { family, prefix });
    t.equal(range?.words[3], first);
  });
}

for (const text of [
  "1.2.3.4/33",
  "1.2.3.4/-1",
  "1.2.3.4/",
  "1.2.3.4/08",
  "::/129",
  "1.2.3.4/8/8",
  "/8",
  "1.2.3.4/8 ",
]) {
  t.test(`${JSON.stringify(text)} is no range`, async (t) => {
    t.equal(readRange(text), undefined);
  });
}
