import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import fc from "fast-check";
import t from "tap";
import { decodePem, derBytesMax } from "../../src/identity/pem.ts";
import { certificateOf, pemOf } from "../support/der.ts";

/** Decodes what stands between other octets, as it does in a message. */
function decoded(text: string | Uint8Array): Buffer | undefined {
  const encoded = Buffer.from(text as string);
  const message = Buffer.concat([Buffer.from("----"), encoded, Buffer.from("AAAA-----END CERTIFICATE-----")]);
  const into = Buffer.alloc(derBytesMax(encoded.length) + 1, 0xee);
  const length = decodePem(message, 4, 4 + encoded.length, into);
  assert.equal(into.at(-1), 0xee, "nothing is written beyond what was promised");
  return length === undefined ? undefined : into.subarray(0, length);
}

/** As Envoy's Utility::urlEncode does it. */
const asEnvoyDoes = (text: string): string => text.replace(/[\n +/=]/g, (char) => encodeURIComponent(char));

const BEGIN = "-----BEGIN CERTIFICATE-----";
const END = "-----END CERTIFICATE-----";

t.test("any octets come back, percent-encoded or not, however the lines are broken", async () => {
  const breaks = fc.constantFrom("", " ", "\n", "\r\n", "\t", " \n\n");
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), fc.array(breaks, { minLength: 1, maxLength: 7 }), (der, spaces) => {
      const characters = [...Buffer.from(der).toString("base64")];
      const broken = characters.map((char, i) => char + spaces[i % spaces.length]).join("");
      const text = `${spaces[0]}${BEGIN}${broken}${END}${spaces[0]}`;
      const escapesInSmall = encodeURIComponent(text).replace(/%../g, (sequence) => sequence.toLowerCase());
      for (const encoded of [text, asEnvoyDoes(text), encodeURIComponent(text), escapesInSmall]) {
        assert.deepEqual(decoded(encoded), Buffer.from(der));
      }
    }),
    { numRuns: 300, interruptAfterTimeLimit: 10_000 },
  );
});

const TWO = "AQI="; // 01 02
const ONE = "AQ=="; // 01
const THREE = "AQID"; // 01 02 03

const cases: readonly { readonly name: string; readonly text: string; readonly der?: readonly number[] }[] = [
  { name: "nothing", text: "" },
  { name: "whitespace", text: " \n" },
  { name: "no content", text: `${BEGIN}\n${END}`, der: [] },
  { name: "three octets", text: `${BEGIN}\n${THREE}\n${END}\n`, der: [1, 2, 3] },
  { name: "two octets", text: `${BEGIN}\n${TWO}\n${END}\n`, der: [1, 2] },
  { name: "one octet", text: `${BEGIN}\n${ONE}\n${END}\n`, der: [1] },
  { name: "padding in pieces", text: `${BEGIN}\nAQ\n= =\n${END}\n`, der: [1] },
  {
    name: "escapes for everything",
    text: `%2d${BEGIN.slice(1)}%0a%41%51%49%44${END.slice(0, -1)}%2D%20`,
    der: [1, 2, 3],
  },
  { name: "vertical whitespace", text: `${BEGIN}\v${THREE}\f${END}`, der: [1, 2, 3] },
  { name: "no padding", text: `${BEGIN}\nAQI\n${END}` },
  { name: "half the padding", text: `${BEGIN}\nAQ=\n${END}` },
  { name: "too much padding", text: `${BEGIN}\nAQI==\n${END}` },
  { name: "padding of nothing", text: `${BEGIN}\nAQID=\n${END}` },
  { name: "padding alone", text: `${BEGIN}\n====\n${END}` },
  { name: "a single character", text: `${BEGIN}\nAQIDA\n${END}` },
  { name: "bits that are left over from one octet", text: `${BEGIN}\nAR==\n${END}` },
  { name: "bits that are left over from two octets", text: `${BEGIN}\nAQJ=\n${END}` },
  { name: "content after padding", text: `${BEGIN}\nAQI=AQID\n${END}` },
  { name: "characters of another alphabet", text: `${BEGIN}\nAQ_-\n${END}` },
  { name: "a NUL", text: `${BEGIN}\nAQ\0ID\n${END}` },
  { name: "no ASCII", text: `${BEGIN}\nAQI\u00e9\n${END}` },
  { name: "no ASCII, percent-encoded", text: `${BEGIN}\nAQI%C3%A9\n${END}` },
  { name: "a percent sign", text: `${BEGIN}\nAQID%25\n${END}` },
  { name: "an escape of no digits", text: `${BEGIN}\nAQID%zz\n${END}` },
  { name: "an escape that is cut off", text: `${BEGIN}\nAQID\n${END}%0` },
  { name: "a percent sign at the end", text: `${BEGIN}\nAQID\n${END}%` },
  { name: "headers", text: `${BEGIN}\nProc-Type: 4,ENCRYPTED\n\n${THREE}\n${END}` },
  { name: "text before", text: `a\n${BEGIN}\n${THREE}\n${END}` },
  { name: "text behind", text: `${BEGIN}\n${THREE}\n${END}\na` },
  { name: "a second certificate", text: `${BEGIN}\n${THREE}\n${END}\n${BEGIN}\n${THREE}\n${END}\n` },
  { name: "no beginning", text: `${THREE}\n${END}` },
  { name: "no end", text: `${BEGIN}\n${THREE}\n` },
  { name: "half an end", text: `${BEGIN}\n${THREE}\n-----END CERT` },
  { name: "four dashes", text: `${BEGIN.slice(1)}\n${THREE}\n${END}` },
  { name: "a certificate of another kind", text: `-----BEGIN TRUSTED CERTIFICATE-----\n${THREE}\n${END}` },
  { name: "another end", text: `${BEGIN}\n${THREE}\n-----END PRIVATE KEY-----` },
  { name: "a small beginning", text: `${BEGIN.toLowerCase()}\n${THREE}\n${END}` },
];
for (const { name, text, der } of cases) {
  t.test(`${name}: ${der === undefined ? "refused" : "decoded"}`, async (t) => {
    t.same(decoded(text), der === undefined ? undefined : Buffer.from(der));
  });
}

t.test("a certificate is decoded to what node:crypto reads, and what is cut off is refused", async (t) => {
  for (const content of [0, 1, 2].map((more) => certificateOf({ serial: Buffer.alloc(1 + more, 1) }))) {
    const text = asEnvoyDoes(pemOf(content));
    t.same(decoded(text), new X509Certificate(decodeURIComponent(text)).raw);
    const last = text.lastIndexOf("-");
    for (let length = 0; length <= last; length++) t.equal(decoded(text.slice(0, length)), undefined);
    t.same(decoded(text.slice(0, last + 1)), content);
  }
});
