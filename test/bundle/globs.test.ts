/** Tests what globs match, and that no text makes them slow. */

import fc from "fast-check";
import t from "tap";
import { compileGlob, isGlob } from "../../src/bundle/globs.ts";

const cases = [
  { glob: "/orders", yes: ["/orders"], no: ["/orders/", "/orders\n", "x/orders", "/Orders", ""] },
  { glob: "*", yes: ["", "orders", "orders.prod.svc"], no: ["a/b", "/"] },
  { glob: "**", yes: ["", "a", "a/b/c", "/", "a\nb"], no: [] },
  { glob: "/orders/*", yes: ["/orders/", "/orders/7"], no: ["/orders", "/orders/7/items"] },
  { glob: "/orders/**", yes: ["/orders/", "/orders/7/items"], no: ["/orders", "/order/7"] },
  { glob: "/orders/*/items", yes: ["/orders/7/items"], no: ["/orders/7/8/items", "/orders/items"] },
  { glob: "/orders/{id}", yes: ["/orders/{id}"], no: ["/orders/id"] },
  { glob: "**/items", yes: ["/items", "a/b/items"], no: ["items", "a/b/items/"] },
  { glob: "**a*b", yes: ["ab", "ac/ab", "aacb", "a/acb"], no: ["a/b", "ab/"] },
  { glob: "a**b*c**d", yes: ["abcd", "abbc/d", "a/bxc/b/d"], no: ["ab/cd", "abcx"] },
  {
    glob: "spiffe://prod/ns/*/sa/bill-*",
    yes: ["spiffe://prod/ns/x/sa/bill-1"],
    no: ["spiffe://prod/ns/x/y/sa/bill-1"],
  },
  { glob: "***", yes: ["a/b"], no: [] },
  { glob: "a.b+c(d)[e]^$|\\?-", yes: ["a.b+c(d)[e]^$|\\?-"], no: ["axb+c(d)[e]^$|\\?-"] },
];
for (const { glob, yes, no } of cases) {
  t.test(`\`${glob}\` matches what it should, and nothing else`, async (t) => {
    const pattern = compileGlob(glob);
    for (const text of yes) t.ok(pattern.test(text), text);
    for (const text of no) t.notOk(pattern.test(text), text);
  });
}

/** The meaning of globs in its plainest form: which prefixes of the text does each prefix of the glob match? */
function matches(glob: string, text: string): boolean {
  const tokens = glob.match(/\*+|[^*]/g) ?? [];
  let ends = new Set([0]);
  for (const token of tokens) {
    const next = new Set<number>();
    for (const end of ends) {
      if (!token.startsWith("*")) {
        if (text[end] === token) next.add(end + 1);
        continue;
      }
      for (let to = end; to <= text.length; to++) {
        next.add(to);
        if (token === "*" && text[to] === "/") break;
      }
    }
    ends = next;
  }
  return ends.has(text.length);
}

t.test("every glob matches as its plain meaning says", async () => {
  const text = fc.string({ unit: fc.constantFrom("a", "b", "/"), maxLength: 14 });
  const glob = fc
    .string({ unit: fc.constantFrom("a", "b", "/", "*", "**"), minLength: 1, maxLength: 9 })
    .filter(isGlob);
  fc.assert(
    fc.property(glob, text, (glob, text) => compileGlob(glob).test(text) === matches(glob, text)),
    { numRuns: 20_000, interruptAfterTimeLimit: 10_000 },
  );
});

t.test("texts that drive backtracking to despair are settled at once", async (t) => {
  const globs = [
    "a*".repeat(16),
    "a**".repeat(16),
    "**a*a".repeat(5),
    "*/".repeat(16),
    "**/".repeat(16),
    "**b*c**b*c**b",
  ];
  for (const glob of globs) {
    for (const text of ["a".repeat(200_000), "/".repeat(200_000), "a/".repeat(100_000), "b".repeat(200_000)]) {
      t.notOk(compileGlob(`${glob}x`).test(text), glob);
    }
  }
});

const bad = ["", " ", "a b", "a\tb", "a\n", "a".repeat(513), "*a".repeat(17)];
for (const glob of bad) {
  t.test(`\`${JSON.stringify(glob.slice(0, 40))}\` (${glob.length} characters) is no glob`, async (t) => {
    t.notOk(isGlob(glob));
    t.throws(() => compileGlob(glob), RangeError);
  });
}

t.test("the longest glob and the most wildcards are globs", async (t) => {
  t.ok(isGlob("a".repeat(512)));
  t.ok(isGlob("*a".repeat(16)));
});
