/** Tests lists from files of each form. */

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { loadPolicy } from "../../src/bundle/load.ts";
import { formatProblem } from "../../src/bundle/problem.ts";
import type { Policy } from "../../src/model/policy.ts";
import { writeMmdb } from "./mmdb.ts";

async function load(
  t: { testdir(): string },
  kind: "addresses" | "fingerprints",
  list: string,
  files: Readonly<Record<string, string | Buffer>>,
): Promise<Policy | readonly string[]> {
  const folder = t.testdir();
  for (const [name, content] of Object.entries(files)) writeFileSync(join(folder, name), content);
  writeFileSync(
    join(folder, "policy.yaml"),
    `apiVersion: sallyport.dev/v1\nkind: Policy\nmetadata: { name: a }\nspec: { lists: { ${kind}: [{ name: l, ${list} }] } }\n`,
  );
  const result = await loadPolicy(join(folder, "policy.yaml"));
  return result.ok ? result.policy : result.problems.map(formatProblem);
}

const ADDRESSES = [
  {
    name: "CSV without a header line",
    list: "file: l.csv",
    text: "192.0.2.1,x\n198.51.100.0/24,y\n",
    bits: { "192.0.2.1": 5, "198.51.100.9": 5 },
  },
  {
    name: "CSV with a column of a usual name, quotes, CR LF, a byte order mark, comments and lines of unlike length",
    list: "file: l.csv",
    text: '\u{feff}# feed\r\nlast_seen,"IP",why\r\n2026-01-01,"192.0.2.1","a, b"\r\n2026-01-02,192.0.2.2\r\n',
    bits: { "192.0.2.1": 5, "192.0.2.2": 5 },
  },
  {
    name: "CSV with named columns, bits among them",
    list: "file: l.csv, column: Host, bitsColumn: Weight",
    text: "Weight,Host\n3,192.0.2.1\n,192.0.2.2\n",
    bits: { "192.0.2.1": 3, "192.0.2.2": 5 },
  },
  {
    name: "CSV with numbered columns",
    list: "file: l.csv, column: 2, bitsColumn: 3",
    text: "a1,192.0.2.1,9\n",
    bits: { "192.0.2.1": 9 },
  },
  {
    name: "CSV with the first and last address of spans",
    list: "file: l.csv",
    text: "start,end,as\n192.0.2.1,192.0.2.6,64500\n2001:db8::,2001:db8::ff,64500\n",
    bits: { "192.0.2.6": 5, "2001:db8::fe": 5 },
    not: ["192.0.2.0", "192.0.2.7", "2001:db8::100"],
  },
  {
    name: "CSV under another name, after a notice of several lines",
    list: "file: l.txt, format: csv",
    text: '"Copyright\nAll rights reserved",\n192.0.2.1,"x"\n',
    bits: { "192.0.2.1": 5 },
  },
  {
    name: "plain lines with spans and bits",
    list: "file: l.txt",
    text: "192.0.2.0 - 192.0.2.3 2 ; span\n198.51.100.1-198.51.100.1\n",
    bits: { "192.0.2.3": 2, "198.51.100.1": 5 },
    not: ["192.0.2.4"],
  },
];
for (const { name, list, text, bits, not = [] } of ADDRESSES) {
  t.test(`addresses are read: ${name}`, async (t) => {
    const policy = (await load(t, "addresses", list, { [/file: ([^,]+)/.exec(list)![1]!]: text })) as Policy;
    t.notOk(Array.isArray(policy), String(policy));
    for (const [address, wanted] of Object.entries(bits))
      t.equal(policy.addresses.lookup(address)?.bits, wanted, address);
    for (const address of not) t.equal(policy.addresses.lookup(address), undefined, address);
  });
}

const REFUSED = [
  {
    name: "an empty plain list",
    file: "l.txt",
    text: "# nothing\n",
    says: "l.txt: expected at least one line with an address or a CIDR range, got none",
  },
  {
    name: "a CSV of a header line only",
    file: "l.csv",
    text: "ip,why\n",
    says: "l.csv: expected at least one line with an address or a CIDR range, got none",
  },
  {
    name: "a value that is no address",
    file: "l.csv",
    text: "ip\n192.0.2.1\nx.example\n",
    says: 'l.csv:3: expected an address or a CIDR range, got "x.example"',
  },
  {
    name: "bits that are none",
    file: "l.csv",
    more: ", bitsColumn: 2",
    text: "192.0.2.1,65\n",
    says: 'l.csv:1: expected bits from 0 to 64, got "65"',
  },
  {
    name: "a column that is not there",
    file: "l.csv",
    more: ", column: addr",
    text: "ip,why\n192.0.2.1,x\n",
    says: 'l.csv:1: expected a header line with a column "addr", got "ip,why"',
  },
  {
    name: "a quote that stays open",
    file: "l.csv",
    text: '192.0.2.1,"x\n192.0.2.2\n',
    says: /^l\.csv:\d: expected comma-separated values \(RFC 4180\), got a quote that is not closed/,
  },
  {
    name: "a span that runs backwards",
    file: "l.txt",
    text: "192.0.2.9-192.0.2.1\n",
    says: 'l.txt:1: expected an address or a CIDR range, got "192.0.2.9-192.0.2.1"',
  },
  {
    name: "a database that is none",
    file: "l.mmdb",
    text: "x",
    says: "l.mmdb: expected an MMDB database of networks to list, got 1 bytes that are no MMDB database",
  },
];
for (const { name, file, more = "", text, says } of REFUSED) {
  t.test(`a list is refused: ${name}`, async (t) => {
    const problems = await load(t, "addresses", `file: ${file}${more}`, { [file]: text });
    t.match((problems as readonly string[])[0], says);
  });
}

t.test("of many wrong lines the first twenty are shown", async (t) => {
  const problems = await load(t, "addresses", "file: l.csv", { "l.csv": "x1\n".repeat(50) });
  t.equal((problems as readonly string[]).length, 21);
  t.equal((problems as readonly string[])[20], "l.csv: expected no other faulty lines, got 30 more");
});

t.test("fingerprints are read from CSV by the usual names of their columns", async (t) => {
  const text = "# feed\nseen,ja3_md5,Reason\n2026,61d50e7771aee7f2f4b89a7200b4d45e,Tool\n";
  const policy = (await load(t, "fingerprints", "file: l.csv", { "l.csv": text })) as Policy;
  t.equal(policy.fingerprints.get("61d50e7771aee7f2f4b89a7200b4d45e")?.list, "l");
  t.equal(policy.fingerprints.size, 1);
});

t.test("fingerprints are not read from a database of networks", async (t) => {
  const problems = await load(t, "fingerprints", "file: l.mmdb", { "l.mmdb": "x" });
  t.match((problems as readonly string[])[0], /expected a plain or CSV file of fingerprints, got an MMDB database/);
});

const DATABASE = writeMmdb("Test", {
  "110000000000000000000010": { traits: { is_proxy: 1 }, code: "NO" },
  "110001100011001101100100": { traits: { is_proxy: 0 }, code: "SE" },
});
const CHOICES = [
  { name: "every network", more: "", found: ["192.0.2.7", "198.51.100.7"] },
  { name: "those of which a field says something", more: ", field: traits.is_proxy", found: ["192.0.2.7"] },
  {
    name: "those of which a field has a listed value",
    more: ", field: code, values: [SE, FI]",
    found: ["198.51.100.7"],
  },
];
for (const { name, more, found } of CHOICES) {
  t.test(`networks are read from a database: ${name}`, async (t) => {
    const policy = (await load(t, "addresses", `file: l.mmdb${more}`, { "l.mmdb": DATABASE })) as Policy;
    t.same(
      ["192.0.2.7", "198.51.100.7", "192.0.3.7"].filter((address) => policy.addresses.lookup(address) !== undefined),
      found,
    );
  });
}

t.test("an IPv4 network of an IPv6 database counts as IPv4", async (t) => {
  const database = writeMmdb("Test", { [`${"0".repeat(96)}11000000`]: { code: "NO" } }, 6);
  const policy = (await load(t, "addresses", "file: l.mmdb", { "l.mmdb": database })) as Policy;
  t.equal(policy.addresses.lookup("192.0.2.7")?.list, "l");
  t.equal(policy.addresses.lookup("193.0.2.7"), undefined);
});

t.test("a database of which no network is chosen is refused", async (t) => {
  const problems = await load(t, "addresses", "file: l.mmdb, field: cod", { "l.mmdb": DATABASE });
  t.match((problems as readonly string[])[0], /got no network with a listed "cod"/);
});
