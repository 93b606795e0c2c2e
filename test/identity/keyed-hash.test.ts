import { createHmac } from "node:crypto";
import fc from "fast-check";
import t from "tap";
import { keyedHash } from "../../src/identity/keyed-hash.ts";

t.test("it is HMAC-SHA256, whatever the key and the text", async () => {
  const keys = fc.uint8Array({ minLength: 0, maxLength: 100 });
  const texts = fc.oneof(
    fc.string({ unit: "binary", maxLength: 300 }),
    fc.uint8Array({ maxLength: 300 }),
    fc.nat({ max: 20_000 }).map((length) => "ü".repeat(length)),
  );
  fc.assert(
    fc.property(keys, texts, texts, (key, first, second) => {
      for (const text of [first, second, first]) {
        const expected = createHmac("sha256", key).update(text).digest("hex").slice(0, 16);
        if (keyedHash(key, text) !== expected) throw new Error(`not the hash of ${JSON.stringify(text).slice(0, 80)}`);
      }
    }),
    { numRuns: 300 },
  );
});
