import fc from "fast-check";
import t from "tap";
import { parseSubject, subjectKey, subjectOf, subjectsMatch } from "../../src/shared-signals/subjects.ts";

const read: readonly (readonly [name: string, value: unknown, want: object])[] = [
  [
    "a SPIFFE ID names a workload",
    { format: "uri", uri: "spiffe://prod/billing" },
    { kind: "spiffe", id: "spiffe://prod/billing" },
  ],
  [
    "another URI names nothing here",
    { format: "uri", uri: "https://example.com/x" },
    { kind: "unsupported", format: "uri" },
  ],
  [
    "issuer and subject",
    { format: "iss_sub", iss: "https://i", sub: "s" },
    { kind: "iss_sub", iss: "https://i", sub: "s" },
  ],
  [
    "an opaque id",
    { format: "opaque", id: "dMTlD|1600802906337.16|16008.16" },
    { kind: "opaque", id: "dMTlD|1600802906337.16|16008.16" },
  ],
  ["a token", { format: "jwt_id", iss: "https://i", jti: "j" }, { kind: "jwt_id", iss: "https://i", jti: "j" }],
  ["an account is a person", { format: "account", uri: "acct:a@example.com" }, { kind: "person", format: "account" }],
  ["an email address is a person", { format: "email", email: "a@example.com" }, { kind: "person", format: "email" }],
  [
    "a telephone number is a person",
    { format: "phone_number", phone_number: "+1 206 555 0123" },
    { kind: "person", format: "phone_number" },
  ],
  ["a DID names nothing here", { format: "did", url: "did:example:123456" }, { kind: "unsupported", format: "did" }],
  [
    "addresses name nothing here",
    { format: "ip-addresses", "ip-addresses": ["10.29.37.75"] },
    { kind: "unsupported", format: "ip-addresses" },
  ],
  [
    "a SAML assertion names nothing here",
    { format: "saml_assertion_id", issuer: "i", assertion_id: "a" },
    { kind: "unsupported", format: "saml_assertion_id" },
  ],
  [
    "a format of one party's own",
    { format: "catalog_item", catalog_id: "c0384" },
    { kind: "unsupported", format: "other" },
  ],
  [
    "a format that is called as a property of all objects",
    { format: "toString" },
    { kind: "unsupported", format: "other" },
  ],
  [
    "aliases",
    {
      format: "aliases",
      identifiers: [
        { format: "email", email: "a@b" },
        { format: "opaque", id: "x" },
      ],
    },
    {
      kind: "aliases",
      identifiers: [
        { kind: "person", format: "email" },
        { kind: "opaque", id: "x" },
      ],
    },
  ],
];
for (const [name, value, want] of read) {
  t.test(`reads ${name}`, async (t) => {
    t.same(parseSubject(value), { ok: true, subject: want });
  });
}

t.test("reads a complex subject, and ignores members that are no subjects", async (t) => {
  const parsed = parseSubject({
    format: "complex",
    user: { format: "iss_sub", iss: "https://i", sub: "s" },
    tenant: { format: "opaque", id: "1" },
    note: "hello",
    extra: { colour: "red" },
  });
  t.ok(parsed.ok && parsed.subject.kind === "complex");
  if (!parsed.ok || parsed.subject.kind !== "complex") return;
  t.same([...parsed.subject.members.keys()], ["user", "tenant"]);
});

const refused: readonly (readonly [name: string, value: unknown])[] = [
  ["nothing", undefined],
  ["a text", "user"],
  ["a list", []],
  ["no format", { id: "x" }],
  ["a format that is no text", { format: 7 }],
  ["iss_sub without sub", { format: "iss_sub", iss: "https://i" }],
  ["an empty id", { format: "opaque", id: "" }],
  ["an id with a control character", { format: "opaque", id: "a\u0000b" }],
  ["an id of more than 2048 characters", { format: "opaque", id: "x".repeat(2_049) }],
  ["aliases of nothing", { format: "aliases", identifiers: [] }],
  ["aliases of aliases", { format: "aliases", identifiers: [{ format: "aliases", identifiers: [] }] }],
  ["17 aliases", { format: "aliases", identifiers: Array.from({ length: 17 }, () => ({ format: "opaque", id: "x" })) }],
  ["complex without members", { format: "complex" }],
  ["complex in complex", { format: "complex", user: { format: "complex", user: { format: "opaque", id: "x" } } }],
  ["complex with a bad member", { format: "complex", user: { format: "opaque" } }],
  ["addresses that are none", { format: "ip-addresses", "ip-addresses": [7] }],
];
for (const [name, value] of refused) {
  t.test(`refuses ${name}`, async (t) => {
    t.match(parseSubject(value), { ok: false });
  });
}

t.test("whatever is given, reading it does not throw, and refusals repeat nothing of it", async (t) => {
  fc.assert(
    fc.property(
      fc.object({ maxDepth: 4 }),
      fc.constantFrom("complex", "aliases", "iss_sub", "uri", "x"),
      (value, format) => {
        const parsed = parseSubject({ ...value, format });
        return parsed.ok || !parsed.why.includes("secret");
      },
    ),
    { numRuns: 500 },
  );
  t.pass();
});

t.test("equal subjects have equal canonical texts, in whatever order their members stand", async (t) => {
  fc.assert(
    fc.property(fc.dictionary(fc.string(), fc.oneof(fc.string(), fc.integer())), (value) => {
      const turned = Object.fromEntries(Object.entries(value).reverse());
      return (
        subjectKey(value) === subjectKey(turned) && subjectKey(JSON.parse(subjectKey(value))) === subjectKey(value)
      );
    }),
  );
  t.pass();
});

const tenant = { format: "opaque", id: "example-a38h4792-uw2" };
const user = { format: "email", email: "jdoe@example.com" };
const matching: readonly (readonly [name: string, left: object, right: object, want: boolean])[] = [
  ["identical simple subjects", user, { email: "jdoe@example.com", format: "email" }, true],
  ["different simple subjects", user, tenant, false],
  ["a less restrictive complex subject", { format: "complex", tenant }, { format: "complex", tenant, user }, true],
  [
    "a more restrictive complex subject",
    { format: "complex", user, device: { format: "ip-addresses", "ip-addresses": ["10.29.37.75"] } },
    { format: "complex", user },
    true,
  ],
  [
    "complex subjects with a member that differs",
    { format: "complex", user, group: { format: "did", url: "did:example:123456" } },
    { format: "complex", user, group: { format: "did", url: "did:example:9999999" } },
    false,
  ],
  ["a simple and a complex one", user, { format: "complex", user }, false],
];
for (const [name, left, right, want] of matching) {
  t.test(`${name} ${want ? "match" : "do not match"} (SSF 1.0, section 8.1.3.1)`, async (t) => {
    t.equal(subjectsMatch(left, right), want);
    t.equal(subjectsMatch(right, left), want);
  });
}

t.test("principals that others can know have a subject, the others have none", async (t) => {
  t.same(subjectOf({ kind: "spiffe", name: "spiffe://prod/a" }), { format: "uri", uri: "spiffe://prod/a" });
  t.same(subjectOf({ kind: "jwt", name: "https://i|a|b" }), { format: "iss_sub", iss: "https://i", sub: "a|b" });
  t.equal(subjectOf({ kind: "api_key", name: "api-key/x" }), undefined);
  t.equal(subjectOf({ kind: "anonymous", name: "anonymous" }), undefined);
});
