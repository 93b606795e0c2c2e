import fc from "fast-check";
import t from "tap";
import { NONCE_CHARS, NONCE_LIFETIME_MS, NONCE_SKEW_MS, NONCE_WINDOW_MS, Nonces } from "../../src/challenge/nonce.ts";
import { toEpochMs } from "../../src/model/units.ts";

const SECRET = new Uint8Array(32).fill(7);
const CHANCE = new Uint8Array(8).fill(1);
/** The start of a window. */
const START = toEpochMs(Math.floor(Date.parse("2026-03-02T12:00:00Z") / NONCE_WINDOW_MS) * NONCE_WINDOW_MS);
const after = (ms: number) => toEpochMs(START + ms);

t.test("a nonce is good at every sidecar that has the secret, and tells when it was issued", async (t) => {
  const nonce = new Nonces(SECRET).issue("dpop", START, CHANCE);
  t.equal(nonce.length, NONCE_CHARS);
  t.same(new Nonces(SECRET).judge("dpop", nonce, after(1_000)), { kind: "fresh", issuedAt: START });
});

const cases = [
  {
    name: "good for its whole lifetime, across the change of keys",
    issued: 200_000,
    read: 200_000 + NONCE_LIFETIME_MS,
    want: "fresh",
  },
  { name: "stale right after", issued: 200_000, read: 200_001 + NONCE_LIFETIME_MS, want: "stale" },
  { name: "stale once its key is gone", issued: 0, read: 2 * NONCE_WINDOW_MS, want: "stale" },
  { name: "good when the issuer's clock is a little ahead", issued: NONCE_SKEW_MS, read: 0, want: "fresh" },
  { name: "good a little ahead, even from the next window", issued: 1_000, read: -2_000, want: "fresh" },
  { name: "unknown when it comes from further in the future", issued: NONCE_SKEW_MS + 1, read: 0, want: "unknown" },
] as const;
for (const { name, issued, read, want } of cases) {
  t.test(`a nonce is ${name}`, async (t) => {
    const nonces = new Nonces(SECRET);
    t.match(nonces.judge("dpop", nonces.issue("dpop", after(issued), CHANCE), after(read)), { kind: want });
  });
}

t.test("a nonce of another purpose or of another secret is unknown", async (t) => {
  const nonces = new Nonces(SECRET);
  t.same(nonces.judge("signature", nonces.issue("dpop", START, CHANCE), START), { kind: "unknown" });
  t.same(nonces.judge("dpop", new Nonces(new Uint8Array(32)).issue("dpop", START, CHANCE), START), { kind: "unknown" });
});

t.test("two nonces of the same moment differ by their chance", async (t) => {
  const nonces = new Nonces(SECRET);
  t.not(nonces.issue("dpop", START, CHANCE), nonces.issue("dpop", START, new Uint8Array(8)));
});

t.test("a short secret is refused", async (t) => {
  t.throws(() => new Nonces(new Uint8Array(31)), RangeError);
});

t.test("no change of a single character leaves a nonce good, and no text makes reading fail", async () => {
  const nonces = new Nonces(SECRET);
  const good = nonces.issue("dpop", START, CHANCE);
  fc.assert(
    fc.property(fc.nat(NONCE_CHARS - 1), fc.constantFrom(..."ABCDabcd0189-_=+ "), (at, character) => {
      const changed = good.slice(0, at) + character + good.slice(at + 1);
      return changed === good || nonces.judge("dpop", changed, START).kind !== "fresh";
    }),
  );
  fc.assert(
    fc.property(
      fc.string({ unit: "binary", maxLength: 100 }),
      (text) => nonces.judge("dpop", text, START).kind === "unknown",
    ),
  );
});
