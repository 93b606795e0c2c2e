import t from "tap";
import { formatProblem } from "../../src/bundle/problem.ts";
import { readSharedSignals } from "../../src/shared-signals/config.ts";
import { configOf, sha256 } from "./world.ts";

const HASH = sha256("x");
const SOURCE = `
  - name: idp
    issuer: https://idp.example.com/
    audiences: [https://sallyport.example.com]`;

t.test("a transmitter that is heard needs little: the rest has defaults that are safe", async (t) => {
  const { receive, transmit } = configOf(`receive:${SOURCE}\n    push: { tokenSha256: ["${HASH}"] }\n`);
  t.equal(transmit, undefined);
  t.match(receive[0], {
    keys: undefined,
    algorithms: ["RS256", "PS256", "ES256", "ES384", "EdDSA"],
    clockToleranceMs: 60_000,
    maxAgeMs: 604_800_000,
    locksMax: 1_000,
    mapping: {
      sessionRevoked: { lock: true, durationMs: 900_000 },
      credentialChange: { lock: "named", durationMs: 86_400_000 },
      deviceComplianceChange: { posture: true, lock: false },
      riskLevelChange: { posture: true, lockFrom: undefined },
    },
  });
  t.same(receive[0]?.scope.principals, []);
  t.same([...(receive[0]?.scope.issuers ?? [])], ["https://idp.example.com/"]);
});

t.test("who is told of our events needs little as well", async (t) => {
  const { transmit } = configOf(`
transmit:
  issuer: https://sallyport.example.com
  keys: [signing.pem]
  receivers:
    - { name: siem, tokenSha256: ["${HASH}"], audience: [https://siem.example.com] }
`);
  t.match(transmit, {
    eventsMax: 10_000,
    keepMs: 604_800_000,
    receivers: [{ name: "siem", pushUrls: [], principals: undefined, streamsMax: 1, defaultSubjects: "ALL" }],
  });
});

const wrong: readonly (readonly [name: string, text: string, want: RegExp])[] = [
  ["an unknown key", `receive:${SOURCE}\n    pushed: {}\n`, /5:5 receive\[0\]\.pushed: .*did you mean "push"/],
  ["neither push nor poll", `receive:${SOURCE}\n`, /receive\[0\]: expected push or poll, got neither/],
  [
    "both push and poll",
    `receive:${SOURCE}\n    push: { tokenSha256: ["${HASH}"] }\n    poll: { endpoint: "https://idp.example.com/poll" }\n`,
    /either push or poll/,
  ],
  ["a token instead of its hash", `receive:${SOURCE}\n    push: { tokenSha256: [secret] }\n`, /tokenSha256\[0\]/],
  ["a poll without endpoint and manage", `receive:${SOURCE}\n    poll: {}\n`, /an endpoint, or manage beside it/],
  [
    "an issuer that is no URL and keys that are nowhere",
    `receive:\n  - { name: a, issuer: idp, audiences: [x], push: { tokenSha256: ["${HASH}"] } }\n`,
    /receive\[0\]\.issuer: .*or keys and no manage/,
  ],
  [
    "a symmetric algorithm",
    `receive:${SOURCE}\n    algorithms: [HS256]\n    push: { tokenSha256: ["${HASH}"] }\n`,
    /algorithms\[0\]: expected one of RS256/,
  ],
  [
    "a private key in a key set",
    `receive:${SOURCE}\n    keys: { inline: '{"keys":[{"kty":"EC","d":"s3cr3t"}]}' }\n    push: { tokenSha256: ["${HASH}"] }\n`,
    /keys\.inline: .*a private key in keys\[0\]/,
  ],
  [
    "two transmitters of one name",
    `receive:${SOURCE}\n    push: { tokenSha256: ["${HASH}"] }${SOURCE}\n    push: { tokenSha256: ["${HASH}"] }\n`,
    /receive\[1\]\.name: expected a name unlike every other/,
  ],
  [
    "two receivers with one token",
    `transmit:\n  issuer: https://a.example\n  keys: [k]\n  receivers:\n    - { name: a, tokenSha256: ["${HASH}"], audience: [a] }\n    - { name: b, tokenSha256: ["${HASH}"], audience: [b] }\n`,
    /receivers\[1\]\.tokenSha256\[0\]: expected a token of this receiver alone/,
  ],
  [
    "an issuer of ours with a query",
    "transmit: { issuer: 'https://a.example/?x=1', keys: [k] }\n",
    /without query or fragment/,
  ],
  [
    "a plain http address",
    `transmit:\n  issuer: https://a.example\n  keys: [k]\n  receivers:\n    - { name: a, tokenSha256: ["${HASH}"], audience: [a], pushUrls: ["http://siem.example/"] }\n`,
    /pushUrls\[0\]: expected an https URL/,
  ],
];
for (const [name, text, want] of wrong) {
  t.test(`${name} is reported with its place`, async (t) => {
    const read = readSharedSignals(text, "signals.yaml");
    t.equal(read.ok, false);
    const texts = read.ok ? [] : read.problems.map(formatProblem);
    t.ok(
      texts.some((line) => want.test(line)),
      texts.join("\n"),
    );
    t.notOk(texts.some((line) => line.includes("s3cr3t")));
  });
}
