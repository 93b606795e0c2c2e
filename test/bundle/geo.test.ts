/** Tests what is taken from MMDB databases, and how broken ones are refused. */

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import t from "tap";
import { geoLookup, NO_GEO } from "../../src/bundle/geo.ts";
import { type DatabaseKind, openDatabase } from "../../src/bundle/mmdb-database.ts";
import { writeMmdb } from "./mmdb.ts";

const ASNS = writeMmdb("Test-ASN", {
  "11000000": { autonomous_system_number: 64_500 },
  "00001010": { autonomous_system_number: 64_501 },
});
const COUNTRIES = writeMmdb("Test-Country", {
  "11000000": { country: { iso_code: "CH" } },
  "00001010": { country_code: "NL" },
});

function lookup(...databases: readonly (readonly [DatabaseKind, Uint8Array])[]) {
  return geoLookup(
    databases.map(([kind, bytes]) => {
      const opened = openDatabase(kind, bytes);
      if (!opened.ok) throw new Error(opened.got);
      return opened.database;
    }),
  );
}

t.test("places hold network and country, where the databases tell", async (t) => {
  const geo = lookup(["asn", ASNS], ["country", COUNTRIES]);
  for (const again of [false, true]) {
    const note = again ? "also when asked again" : "";
    t.same(geo.place("192.0.2.7"), { asn: 64_500, country: "CH" }, note);
    t.same(geo.place("::ffff:192.0.2.7"), { asn: 64_500, country: "CH" }, note);
    t.same(geo.place("10.1.2.3"), { asn: 64_501, country: "NL" }, note);
    t.same(geo.place("11.1.2.3"), { asn: undefined, country: undefined }, note);
    t.same(geo.place("c000::"), { asn: undefined, country: undefined }, "IPv6 in a database of IPv4 only");
    t.same(geo.place("nonsense"), { asn: undefined, country: undefined }, note);
  }
});

t.test("without databases no address has a place", async (t) => {
  t.equal(lookup(), NO_GEO);
  t.same(NO_GEO.place("192.0.2.7"), { asn: undefined, country: undefined });
});

t.test("places stay right however many addresses are asked for", async (t) => {
  const geo = lookup(["asn", ASNS]);
  for (let index = 0; index < 20_000; index++) {
    const asn = geo.place(`${index % 2 === 0 ? 192 : 11}.0.${index >>> 8}.${index & 255}`).asn;
    if (asn !== (index % 2 === 0 ? 64_500 : undefined)) t.fail(`wrong place after ${index} addresses`);
  }
});

/** A copy with one metadata field overwritten: names are in the clear, and one-byte values follow their head. */
function withNodeCount(bytes: Buffer, count: number): Buffer {
  const copy = Buffer.from(bytes);
  copy.writeUInt32BE(count, copy.indexOf("node_count") + "node_count".length + 1);
  return copy;
}

function pointingBeyond(bytes: Buffer): Buffer {
  const copy = Buffer.from(bytes);
  copy.writeUIntBE(0xfffff0, 0, 3);
  copy.writeUIntBE(0xfffff0, 3, 3);
  return copy;
}

function circling(bytes: Buffer): Buffer {
  const copy = Buffer.from(bytes);
  copy.writeUIntBE(0, 0, 3);
  copy.writeUIntBE(0, 3, 3);
  return copy;
}

const WANTED_ASN = "an MMDB database with autonomous_system_number";
const broken = [
  { name: "no bytes", bytes: Buffer.alloc(0), got: "0 bytes that are no MMDB database" },
  { name: "a text", bytes: Buffer.from("hello, world"), got: "12 bytes that are no MMDB database" },
  {
    name: "a database that is cut off",
    bytes: ASNS.subarray(60),
    got: /cut off|cannot be read|points beyond|makes no sense/,
  },
  {
    name: "too high a count of nodes",
    bytes: withNodeCount(ASNS, 1_000_000),
    got: /^a database that is cut off: 1000000 nodes/,
  },
  { name: "no nodes", bytes: withNodeCount(ASNS, 0), got: "a database whose metadata makes no sense" },
  {
    name: "a tree that points beyond the end",
    bytes: pointingBeyond(ASNS),
    got: "a database whose search tree points beyond its end",
  },
  { name: "a tree that goes in circles", bytes: circling(ASNS), got: "a database whose search tree does not end" },
  { name: "IP version 5", bytes: writeMmdb("x", { "1": 1 }, 5), got: "a database whose metadata makes no sense" },
  { name: "countries in place of networks", bytes: COUNTRIES, got: 'a database of type "Test-Country" without it' },
];
for (const { name, bytes, got } of broken) {
  t.test(`${name} is refused, in words`, async (t) => {
    t.match(openDatabase("asn", bytes), { ok: false, expected: WANTED_ASN, got });
  });
}

t.test("networks in place of countries are refused too", async (t) => {
  t.match(openDatabase("country", ASNS), { ok: false, got: 'a database of type "Test-ASN" without it' });
});

t.test("whatever bytes are damaged, a database is refused or tells something, and never throws", async () => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(ASNS.length - 1), fc.nat(255)), { maxLength: 6 }),
      fc.ipV4(),
      (damage, address) => {
        const copy = Buffer.from(ASNS);
        for (const [offset, byte] of damage) copy[offset] = byte;
        const opened = openDatabase("asn", copy);
        if (opened.ok) geoLookup([opened.database]).place(address);
      },
    ),
    { numRuns: 3_000, interruptAfterTimeLimit: 15_000 },
  );
});

/** A folder with the `test-data` of https://github.com/maxmind/MaxMind-DB; without it there is nothing to test. */
const SAMPLES = process.env.SALLYPORT_MMDB_SAMPLES ?? "";
const samples = [
  { file: "GeoLite2-ASN-Test.mmdb", kind: "asn", address: "1.128.0.1", place: { asn: 1221, country: undefined } },
  {
    file: "GeoLite2-Country-Test.mmdb",
    kind: "country",
    address: "2001:218::1",
    place: { asn: undefined, country: "JP" },
  },
  { file: "GeoIP2-City-Test.mmdb", kind: "country", address: "81.2.69.160", place: { asn: undefined, country: "GB" } },
  { file: "GeoIP2-City-Test-Invalid-Node-Count.mmdb", kind: "country", refused: true },
  { file: "GeoIP2-Connection-Type-Test.mmdb", kind: "country", refused: true },
  { file: "MaxMind-DB-test-broken-search-tree-24.mmdb", kind: "asn", refused: true },
  { file: "MaxMind-DB-test-broken-pointers-24.mmdb", kind: "asn", refused: true },
] as const;
for (const sample of samples) {
  const there = SAMPLES !== "" && existsSync(join(SAMPLES, sample.file));
  if (!there) continue;
  t.test(`the published sample ${sample.file} is taken as it should be`, async (t) => {
    const opened = openDatabase(sample.kind, readFileSync(join(SAMPLES, sample.file)));
    t.equal(opened.ok, !("refused" in sample));
    if (opened.ok && "place" in sample) t.same(geoLookup([opened.database]).place(sample.address), sample.place);
  });
}
