import fc from "fast-check";
import t from "tap";
import { decisionId } from "../../src/check/decision-id.ts";
import { toEpochMs } from "../../src/model/units.ts";

t.test("a decision id is a UUID of version 7 that holds the time and all its random bits", async () => {
  const random = fc.uint8Array({ minLength: 16, maxLength: 16 });
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 2 ** 48 - 1 }), random, (time, bytes) => {
      const hex = decisionId(toEpochMs(time), bytes).replaceAll("-", "");
      const read = Buffer.from(hex, "hex");
      return (
        read.readUIntBE(0, 6) === time &&
        read[6] === (0x70 | ((bytes[6] as number) & 0x0f)) &&
        read[7] === bytes[7] &&
        read[8] === (0x80 | ((bytes[8] as number) & 0x3f)) &&
        read.subarray(9).equals(bytes.subarray(9))
      );
    }),
  );
});

t.test("its hyphens are where a UUID has them", async (t) => {
  t.match(
    decisionId(toEpochMs(0x123456789abc), new Uint8Array(16).fill(0xff)),
    /^12345678-9abc-7fff-bfff-ffffffffffff$/,
  );
});
