import { X509Certificate } from "node:crypto";
import t from "tap";
import { DerCursor } from "../../src/identity/der.ts";
import { readName } from "../../src/identity/distinguished-name.ts";
import { attribute, certificateOf, nameOf } from "../support/der.ts";

function textOf(type: string): string {
  const der = new DerCursor();
  const name = nameOf(attribute(type, "x"));
  der.begin(name, 0, name.length);
  return readName(der);
}

const arcs = [
  { arc: "2.5.4", last: 100, names: 58 },
  { arc: "0.9.2342.19200300.100.1", last: 60, names: 47 },
  { arc: "1.2.840.113549.1.9", last: 8, names: 3 },
  { arc: "1.3.6.1.4.1.311.60.2.1", last: 3, names: 3 },
  { arc: "1.2.643.100", last: 113, names: 6 },
  { arc: "1.2.643.3.131.1", last: 1, names: 1 },
];
for (const { arc, last, names } of arcs) {
  t.test(`${names} types below ${arc} are called what OpenSSL calls them`, async (t) => {
    let named = 0;
    for (let number = 0; number <= last; number++) {
      const type = `${arc}.${number}`;
      const ours = textOf(type);
      if (ours === `${type}=x`) continue;
      t.equal(ours, new X509Certificate(certificateOf({ subject: nameOf(attribute(type, "x")) })).subject);
      named++;
    }
    t.equal(named, names);
  });
}

t.test("what OpenSSL has a name for that is no attribute's is told by its number", async (t) => {
  t.equal(textOf("1.2.840.113549.1.9.3"), "1.2.840.113549.1.9.3=x");
  t.equal(textOf("2.16.840.1.101.3.4.2.1"), "2.16.840.1.101.3.4.2.1=x");
});
