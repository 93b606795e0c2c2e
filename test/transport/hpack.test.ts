import fc from "fast-check";
import t from "tap";
import { HpackDecoder } from "../../src/transport/hpack-decoder.ts";
import { encodeHeaders, integer } from "../../src/transport/hpack-encoder.ts";
import { decodeHuffman, HpackError, HUFFMAN_CODES } from "../../src/transport/hpack-huffman.ts";

const hex = (text: string) => Buffer.from(text.replace(/\s/g, ""), "hex");
const lines = (fields: readonly { name: string; value: string }[]) => fields.map((f) => `${f.name}: ${f.value}`);

const first = [":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com"];
const requests = [
  first,
  [...first, "cache-control: no-cache"],
  [":method: GET", ":scheme: https", ":path: /index.html", ":authority: www.example.com", "custom-key: custom-value"],
];
const responses = [
  [
    ":status: 302",
    "cache-control: private",
    "date: Mon, 21 Oct 2013 20:13:21 GMT",
    "location: https://www.example.com",
  ],
  [
    ":status: 307",
    "cache-control: private",
    "date: Mon, 21 Oct 2013 20:13:21 GMT",
    "location: https://www.example.com",
  ],
  [
    ":status: 200",
    "cache-control: private",
    "date: Mon, 21 Oct 2013 20:13:22 GMT",
    "location: https://www.example.com",
    "content-encoding: gzip",
    "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
  ],
];
/** RFC 7541 appendix C.3 to C.6; responses have a table of 256 bytes, here by a size update in front. */
const vectors = [
  {
    name: "C.3, requests without Huffman",
    blocks: [
      "828684410f7777772e6578616d706c652e636f6d",
      "828684be58086e6f2d6361636865",
      "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
    ],
    lists: requests,
    sizes: [57, 110, 164],
  },
  {
    name: "C.4, requests with Huffman",
    blocks: [
      "828684418cf1e3c2e5f23a6ba0ab90f4ff",
      "828684be5886a8eb10649cbf",
      "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
    ],
    lists: requests,
    sizes: [57, 110, 164],
  },
  {
    name: "C.5, responses without Huffman, with eviction",
    blocks: [
      `3fe101 4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d54
       6e1768747470733a2f2f7777772e6578616d706c652e636f6d`,
      "4803333037c1c0bf",
      `88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153444a4b48514b
       425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31`,
    ],
    lists: responses,
    sizes: [222, 222, 215],
  },
  {
    name: "C.6, responses with Huffman, with eviction",
    blocks: [
      `3fe101 488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff
       6e919d29ad171863c78f0b97c8e9ae82ae43d3`,
      "4883640effc1c0bf",
      `88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f
       3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007`,
    ],
    lists: responses,
    sizes: [222, 222, 215],
  },
];
for (const { name, blocks, lists, sizes } of vectors) {
  t.test(`RFC 7541 ${name}`, async (t) => {
    const decoder = new HpackDecoder(65_536, 256);
    blocks.forEach((block, index) => {
      const bytes = hex(block);
      t.same(lines(decoder.decode(bytes, 0, bytes.length).fields), lists[index]);
      t.equal(decoder.tableBytes, sizes[index]);
    });
  });
}

t.test("RFC 7541 C.1, integers", async (t) => {
  t.same(integer(0, 5, 10), Buffer.of(0b01010));
  t.same(integer(0, 5, 1337), Buffer.of(31, 154, 10));
  t.same(integer(0, 8, 42), Buffer.of(42));
});

const wrong = [
  { name: "index 0", block: "80" },
  { name: "an index beyond the tables", block: "be" },
  { name: "a size update beyond the setting", block: "3fe21f" },
  { name: "a size update after a field", block: "8220" },
  { name: "an integer cut off", block: "ff" },
  { name: "an integer of endless zeros", block: "ff8080808080808000" },
  { name: "an integer beyond 2^24", block: "ffffffffff7f" },
  { name: "a string beyond its block", block: "000561" },
  { name: "a name without a value", block: "000161" },
  { name: "Huffman padding of zeros", block: "00016181f8ff".replace("81f8ff", "8118") },
  { name: "Huffman padding of eight bits", block: "000161821fff" },
  { name: "Huffman with the end of string inside", block: "00016184ffffffff" },
];
for (const { name, block } of wrong) {
  t.test(`${name} is an error`, async (t) => {
    const bytes = hex(block);
    t.throws(() => new HpackDecoder(65_536, 256).decode(bytes, 0, bytes.length), HpackError);
  });
}

t.test("the largest size update that the setting allows is taken", async (t) => {
  const bytes = hex("3fe11f82");
  t.same(lines(new HpackDecoder(65_536, 256).decode(bytes, 0, bytes.length).fields), [":method: GET"]);
});

t.test("every octet's Huffman code decodes to it", async (t) => {
  for (let symbol = 0; symbol < 256; symbol++) {
    const { code, bits } = HUFFMAN_CODES[symbol]!;
    const text = code.toString(2).padStart(bits, "0");
    const padded = text.padEnd(Math.ceil(bits / 8) * 8, "1");
    const bytes = Buffer.from(padded.match(/.{8}/g)!.map((byte) => Number.parseInt(byte, 2)));
    t.equal(decodeHuffman(bytes, 0, bytes.length), String.fromCharCode(symbol), `${symbol}`);
  }
});

t.test("a list over its bounds is told, and the table still follows the peer", async (t) => {
  const decoder = new HpackDecoder(100, 2);
  const bomb = Buffer.concat([hex("400161"), Buffer.of(40), Buffer.alloc(40, "x"), Buffer.alloc(5000, 0xbe)]);
  const list = decoder.decode(bomb, 0, bomb.length);
  t.equal(list.tooLarge, true);
  t.equal(list.fields.length, 1);
  t.same(lines(decoder.decode(hex("be"), 0, 1).fields), [`a: ${"x".repeat(40)}`]);
});

t.test("what the encoder writes, the decoder reads, and leaves the table alone", async (t) => {
  const octets = fc.string({ unit: fc.integer({ min: 0, max: 255 }).map((code) => String.fromCharCode(code)) });
  fc.assert(
    fc.property(fc.array(fc.tuple(octets, octets), { maxLength: 20 }), (fields) => {
      const decoder = new HpackDecoder(1_000_000, 256);
      const block = encodeHeaders(fields);
      const list = decoder.decode(block, 0, block.length);
      t.equal(decoder.generation, 0);
      return (
        list.fields.length === fields.length &&
        list.fields.every((f, i) => f.name === fields[i]![0] && f.value === fields[i]![1])
      );
    }),
    { numRuns: 300 },
  );
});

t.test("no bytes make the decoder do anything but decode or throw its own error", async (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      try {
        new HpackDecoder(4096, 64).decode(Buffer.from(bytes), 0, bytes.length);
        return true;
      } catch (error) {
        return error instanceof HpackError;
      }
    }),
    { numRuns: 3000 },
  );
  t.pass("held");
});
