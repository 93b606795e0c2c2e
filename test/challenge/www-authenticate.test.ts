import fc from "fast-check";
import t from "tap";
import { dpopChallenge, parseAuthenticate, stepUpChallenge } from "../../src/challenge/www-authenticate.ts";

const plain = (field: string) =>
  parseAuthenticate(field).map(({ scheme, parameters }) => [scheme, Object.fromEntries(parameters)]);

t.test("what is written is read back, several in one field", async (t) => {
  const field = `${dpopChallenge(["ES256", "EdDSA"])}, ${stepUpChallenge({ acrValues: ["gold", "silver"], maxAgeSeconds: 5 })}`;
  t.same(plain(field), [
    [
      "dpop",
      { error: "use_dpop_nonce", error_description: "A proof made with this nonce is needed", algs: "ES256 EdDSA" },
    ],
    [
      "bearer",
      {
        error: "insufficient_user_authentication",
        error_description: "A token issued after this challenge is needed",
        max_age: "5",
        acr_values: "gold silver",
      },
    ],
  ]);
});

const cases = [
  ["Basic", [["basic", {}]]],
  [
    "Negotiate abc==, Basic realm=x",
    [
      ["negotiate", {}],
      ["basic", { realm: "x" }],
    ],
  ],
  ['Basic realm="a, b=\\"c\\""', [["basic", { realm: 'a, b="c"' }]]],
  [", ,DPoP  Error = use_dpop_nonce , algs=ES256", [["dpop", { error: "use_dpop_nonce", algs: "ES256" }]]],
  ["realm=x", []],
  ['Basic realm="x', [["basic", {}]]],
  ["", []],
] as const;
for (const [field, want] of cases) {
  t.test(`${JSON.stringify(field)} is read`, async (t) => {
    t.same(plain(field), want);
  });
}

t.test("no text makes reading fail", async () => {
  const part = fc.constantFrom("DPoP", " ", ",", "=", '"', "\\", "a", "error", "\t", "==");
  fc.assert(
    fc.property(fc.array(part, { maxLength: 60 }), (parts) => {
      parseAuthenticate(parts.join(""));
    }),
  );
});
