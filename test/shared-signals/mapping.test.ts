import t from "tap";
import { tokenId } from "../../src/identity/jwt-claims.ts";
import { lockId, type Mapped, type MappingOptions, mapSet } from "../../src/shared-signals/mapping.ts";
import { parseClaims } from "../../src/shared-signals/set.ts";
import { AUDIENCE, CAEP, claims, configOf, IDP, ISSUED_AT, NOW_MS } from "./world.ts";

const KEY = new Uint8Array(32).fill(7);

function optionsOf(more = "", credentialKey: Uint8Array | undefined = KEY): MappingOptions {
  const { receive } = configOf(`
receive:
  - name: idp
    issuer: ${IDP}
    audiences: [${AUDIENCE}]
    push: { tokenSha256: ["${"0".repeat(64)}"] }
${more}`);
  const { scope, mapping } = receive[0]!;
  return { transmitter: "idp", scope, mapping, credentialKey, nowMs: NOW_MS };
}

function map(sub_id: unknown, type: string, payload: object, options = optionsOf()): Mapped {
  const parsed = parseClaims(claims({ sub_id, events: { [`${CAEP}${type}`]: payload } }), {
    issuer: IDP,
    audiences: [AUDIENCE],
    nowMs: NOW_MS,
    clockToleranceMs: 0,
    maxAgeMs: 1_000,
  });
  if (!parsed.ok) throw new Error(parsed.fault.description);
  return mapSet(parsed.set, options);
}

const billing = { format: "iss_sub", iss: IDP, sub: "billing" };
const spiffe = { format: "uri", uri: "spiffe://prod/billing" };
const token = { format: "jwt_id", iss: IDP, jti: "t1" };
const tokenCredential = tokenId(KEY, IDP, "t1", "");
const SPIFFE_SCOPE = "    scope: { principals: ['spiffe://prod/**'] }\n";

t.test("a revoked session of a token's subject locks that principal for 15 minutes", async (t) => {
  const { planned, ignored } = map(billing, "session-revoked", { reason_admin: { en: "stolen" } });
  t.same(ignored, []);
  t.same(
    planned.map(({ action }) => action),
    [
      {
        kind: "lock",
        id: lockId("idp", "session-revoked", { principal: `${IDP}|billing` }),
        scope: { principal: `${IDP}|billing` },
        reason: "session-revoked by idp: stolen",
        setBy: "shared-signals:idp",
        setAtMs: NOW_MS,
        expiresAtMs: NOW_MS + 900_000,
        cause: { transmitter: "idp", issuer: IDP, jti: "one", txn: "8675309", event: "session-revoked" },
      },
    ],
  );
});

t.test("a SPIFFE ID is locked only by transmitters that may speak of it", async (t) => {
  t.same(map(spiffe, "session-revoked", {}), { planned: [], ignored: ["out_of_scope"] });
  const { planned } = map(spiffe, "session-revoked", {}, optionsOf(SPIFFE_SCOPE));
  t.match(planned, [{ action: { kind: "lock", scope: { principal: "spiffe://prod/billing" } } }]);
  const other = map({ format: "uri", uri: "spiffe://test/billing" }, "session-revoked", {}, optionsOf(SPIFFE_SCOPE));
  t.same(other.ignored, ["out_of_scope"]);
});

t.test("a transmitter may not speak of another issuer's subjects and tokens, unless its scope says so", async (t) => {
  const foreign = { format: "iss_sub", iss: "https://other.example", sub: "billing" };
  t.same(map(foreign, "session-revoked", {}).ignored, ["out_of_scope"]);
  t.same(map({ ...token, iss: "https://other.example" }, "session-revoked", {}).ignored, ["out_of_scope"]);
  const wide = optionsOf("    scope: { issuers: ['https://other.example'] }\n");
  t.equal(map(foreign, "session-revoked", {}, wide).planned.length, 1);
});

t.test("a token is locked by the hash that sidecars know it by, when they share the key", async (t) => {
  t.match(map(token, "session-revoked", {}).planned, [{ action: { scope: { credential: tokenCredential } } }]);
});

t.test("without the key a token alone names nobody, and beside its user the user is locked", async (t) => {
  const blind = { ...optionsOf(), credentialKey: undefined };
  t.same(map(token, "session-revoked", {}, blind), { planned: [], ignored: ["unsupported_subject"] });
  const both = { format: "complex", session: token, user: billing };
  t.same(
    map(both, "session-revoked", {}, blind).planned.map(({ action }) => action.kind === "lock" && action.scope),
    [{ principal: `${IDP}|billing` }],
  );
});

t.test("a session and its user are locked together: this token of this principal and nothing else", async (t) => {
  const both = { format: "complex", session: token, user: billing };
  t.same(
    map(both, "session-revoked", {}).planned.map(({ action }) => action.kind === "lock" && action.scope),
    [{ principal: `${IDP}|billing`, credential: tokenCredential }],
  );
});

t.test("people, and subjects that mean nothing here, are ignored and counted", async (t) => {
  t.same(map({ format: "email", email: "a@example.com" }, "session-revoked", {}).ignored, ["person"]);
  t.same(map({ format: "did", url: "did:example:1" }, "session-revoked", {}).ignored, ["unsupported_subject"]);
  t.same(map({ format: "opaque", id: "x" }, "session-revoked", {}).ignored, ["unsupported_subject"]);
});

t.test("opaque ids are subjects of the issuer that the scope names", async (t) => {
  const options = optionsOf(`    scope: { opaqueIssuer: '${IDP}' }\n`);
  t.match(map({ format: "opaque", id: "billing" }, "session-revoked", {}, options).planned, [
    { action: { scope: { principal: `${IDP}|billing` } } },
  ]);
});

t.test("each alias that is known here is locked, and the others do not count", async (t) => {
  const aliases = { format: "aliases", identifiers: [{ format: "email", email: "a@b" }, billing, spiffe, billing] };
  const { planned, ignored } = map(aliases, "session-revoked", {}, optionsOf(SPIFFE_SCOPE));
  t.same(
    planned.map(({ action }) => action.kind === "lock" && action.scope.principal),
    [`${IDP}|billing`, "spiffe://prod/billing"],
  );
  t.same(ignored, []);
});

t.test("events of another tenant are ignored, those of ours and of none are not", async (t) => {
  const options = optionsOf("    scope: { tenants: ['1'] }\n");
  const of = (id: string): object => ({ format: "complex", user: billing, tenant: { format: "opaque", id } });
  t.same(map(of("2"), "session-revoked", {}, options), { planned: [], ignored: ["other_tenant"] });
  t.equal(map(of("1"), "session-revoked", {}, options).planned.length, 1);
  t.equal(map(billing, "session-revoked", {}, options).planned.length, 1);
});

t.test("an event with a critical member that is not understood is ignored (SSF 1.0, section 3.6)", async (t) => {
  const group = { format: "complex", user: billing, group: { format: "opaque", id: "g" } };
  t.equal(map(group, "session-revoked", {}).planned.length, 1);
  const options = optionsOf("    scope: { criticalMembers: [group] }\n");
  t.same(map(group, "session-revoked", {}, options), { planned: [], ignored: ["critical_member"] });
});

t.test("a device that is no longer compliant gets a posture fact, and no lock unless asked", async (t) => {
  const subject = { format: "complex", user: { ...billing, sub: "jane" }, device: { ...billing, sub: "node-7" } };
  const { planned } = map(subject, "device-compliance-change", {
    current_status: "not-compliant",
    event_timestamp: ISSUED_AT - 5,
  });
  t.match(planned, [
    {
      action: {
        kind: "posture",
        subject: `${IDP}|node-7`,
        facts: { compliant: "false" },
        source: "shared-signals:idp",
        reportedAtMs: NOW_MS - 5_000,
      },
    },
  ]);
  t.equal(planned.length, 1);
});

t.test("a lock for compliance is taken back by the same transmitter's word that all is well", async (t) => {
  const options = optionsOf("    events: { deviceComplianceChange: { posture: false, lock: true, duration: 2h } }\n");
  const [bad] = map(billing, "device-compliance-change", { current_status: "not-compliant" }, options).planned;
  const [good] = map(billing, "device-compliance-change", { current_status: "compliant" }, options).planned;
  t.match(bad, { action: { kind: "lock", expiresAtMs: NOW_MS + 7_200_000 } });
  t.match(good, { action: { kind: "unlock", id: (bad!.action as { id: string }).id } });
});

t.test("nobody can take back the lock of another transmitter or of another kind of event", async (t) => {
  const scope = { principal: "spiffe://prod/a" };
  const ids = [
    lockId("idp", "risk-level-change", scope),
    lockId("edr", "risk-level-change", scope),
    lockId("idp", "session-revoked", scope),
    lockId("idp", "risk-level-change", { principal: "spiffe://prod/b" }),
    lockId("idp", "risk-level-change", { credential: "spiffe://prod/a" }),
  ];
  t.equal(new Set(ids).size, ids.length);
});

const risks: readonly (readonly [lockFrom: string, level: string, want: readonly string[]])[] = [
  ["never", "HIGH", ["posture"]],
  ["high", "HIGH", ["posture", "lock"]],
  ["high", "MEDIUM", ["posture", "unlock"]],
  ["medium", "MEDIUM", ["posture", "lock"]],
  ["medium", "LOW", ["posture", "unlock"]],
];
for (const [lockFrom, level, want] of risks) {
  t.test(`risk ${level} with lockFrom ${lockFrom} gives ${want.join(" and ")}`, async (t) => {
    const options = optionsOf(`    events: { riskLevelChange: { lockFrom: ${lockFrom} } }\n`);
    const { planned } = map(billing, "risk-level-change", { current_level: level, principal: "USER" }, options);
    t.same(
      planned.map(({ action }) => action.kind),
      want,
    );
    t.match(planned[0], { action: { facts: { risk_level: level } } });
  });
}

t.test("risk of a device is about the device, not its user", async (t) => {
  const subject = { format: "complex", user: { ...billing, sub: "jane" }, device: { ...billing, sub: "node-7" } };
  const of = (principal: string): unknown =>
    map(subject, "risk-level-change", { current_level: "HIGH", principal }).planned[0]?.action;
  t.match(of("DEVICE"), { subject: `${IDP}|node-7` });
  t.match(of("USER"), { subject: `${IDP}|jane` });
});

const credentials: readonly (readonly [name: string, more: string, subject: object, payload: object, want: unknown])[] =
  [
    [
      "a revoked certificate of a principal",
      "",
      billing,
      { credential_type: "x509", change_type: "revoke", x509_serial: "0A:1B" },
      { principal: `${IDP}|billing`, certificate: "0a1b" },
    ],
    ["a deleted token", "", token, { credential_type: "app", change_type: "delete" }, { credential: tokenCredential }],
    ["a revoked password", "", billing, { credential_type: "password", change_type: "revoke" }, undefined],
    [
      "a new certificate",
      "",
      billing,
      { credential_type: "x509", change_type: "create", x509_serial: "0a" },
      undefined,
    ],
    [
      "a certificate whose owner is not known",
      "",
      { format: "email", email: "a@b" },
      { credential_type: "x509", change_type: "revoke", x509_serial: "0a" },
      undefined,
    ],
    [
      "a revoked credential of any kind, where the principal is to be locked",
      "    events: { credentialChange: { lock: principal } }\n",
      billing,
      { credential_type: "password", change_type: "revoke" },
      { principal: `${IDP}|billing` },
    ],
    [
      "a revoked certificate, where nothing is to be locked",
      "    events: { credentialChange: { lock: none } }\n",
      billing,
      { credential_type: "x509", change_type: "revoke", x509_serial: "0a" },
      undefined,
    ],
  ];
for (const [name, more, subject, payload, want] of credentials) {
  t.test(`${name} locks ${want === undefined ? "nothing" : JSON.stringify(want)}`, async (t) => {
    const { planned } = map(subject, "credential-change", payload, optionsOf(more));
    const [action] = planned.map((one) => one.action);
    t.same(action?.kind === "lock" ? action.scope : undefined, want);
  });
}

t.test(
  "an event of the future counts as of when its token was issued: it cannot outrank what is to come",
  async (t) => {
    const payload = { current_level: "HIGH", event_timestamp: ISSUED_AT + 1_000_000 };
    t.equal(map(billing, "risk-level-change", payload).planned[0]?.matter?.atMs, NOW_MS);
  },
);

t.test("unknown events are counted one by one", async (t) => {
  t.same(map(billing, "assurance-level-change", {}), { planned: [], ignored: ["unknown_event"] });
});
