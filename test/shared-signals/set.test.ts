import fc from "fast-check";
import t from "tap";
import { type ClaimsWanted, isSetType, parseClaims } from "../../src/shared-signals/set.ts";
import { AUDIENCE, CAEP, claims, IDP, ISSUED_AT, NOW_MS } from "./world.ts";

const wanted: ClaimsWanted = {
  issuer: IDP,
  audiences: [AUDIENCE],
  nowMs: NOW_MS,
  clockToleranceMs: 60_000,
  maxAgeMs: 3_600_000,
};

/** The claims of RFC 8417, section 2.1, at the time at which they were issued. */
const RFC_8417: readonly (readonly [name: string, claims: Record<string, unknown>])[] = [
  [
    "2.1.1: an account is made, in one event",
    {
      iss: "https://scim.example.com",
      iat: 1458496404,
      jti: "4d3559ec67504aaba65d40b0363faad8",
      aud: [
        "https://scim.example.com/Feeds/98d52461fa5bbc879593b7754",
        "https://scim.example.com/Feeds/5d7604516b1d08641d7676ee7",
      ],
      events: {
        "urn:ietf:params:scim:event:create": {
          ref: "https://scim.example.com/Users/44f6142df96bd6ab61e7521d9",
          attributes: ["id", "name", "userName", "password", "emails"],
        },
      },
    },
  ],
  [
    "2.1.1: a password is reset, in two events and with a sub",
    {
      iss: "https://scim.example.com",
      iat: 1458496025,
      jti: "3d0c3cf797584bd193bd0fb1bd4e7d30",
      aud: [
        "https://jhub.example.com/Feeds/98d52461fa5bbc879593b7754",
        "https://jhub.example.com/Feeds/5d7604516b1d08641d7676ee7",
      ],
      sub: "https://scim.example.com/Users/44f6142df96bd6ab61e7521d9",
      events: {
        "urn:ietf:params:scim:event:passwordReset": { id: "44f6142df96bd6ab61e7521d9" },
        "https://example.com/scim/event/passwordResetExt": { resetAttempts: 5 },
      },
    },
  ],
  [
    "2.1.2: somebody logs out, in an event without members",
    {
      iss: "https://server.example.com",
      sub: "248289761001",
      aud: "s6BhdRkqt3",
      iat: 1471566154,
      jti: "bWJq",
      sid: "08a5019c-17e1-4977-8f42-65a12843ea02",
      events: { "http://schemas.openid.net/event/backchannel-logout": {} },
    },
  ],
  [
    "2.1.3: somebody consents; the event has an issuer of its own",
    {
      iss: "https://my.med.example.org",
      iat: 1458496025,
      jti: "fb4e75b5411e4e19b6c0fe87950f7749",
      aud: ["https://rp.example.com"],
      events: {
        "https://openid.net/heart/specs/consent.html": {
          iss: "https://connect.example.com",
          sub: "248289761001",
          consentUri: ["https://terms.med.example.org/labdisclosure.html#Agree"],
        },
      },
    },
  ],
];
for (const [name, value] of RFC_8417) {
  t.test(`RFC 8417, ${name}`, async (t) => {
    const aud = Array.isArray(value.aud) ? value.aud[0] : value.aud;
    const result = parseClaims(value, {
      ...wanted,
      issuer: value.iss as string,
      audiences: [aud],
      nowMs: (value.iat as number) * 1_000,
    });
    t.match(result, {
      ok: true,
      set: { jti: value.jti, events: [], unknownEvents: Object.keys(value.events as object).length },
    });
  });
}

const sessionRevoked = `${CAEP}session-revoked`;
const complex = {
  format: "complex",
  session: { format: "opaque", id: "dMTlD|1600802906337.16|16008.16" },
  user: { format: "iss_sub", iss: "https://idp.example.com/123456789/", sub: "99beb27c-c1c2-4955-882a-e0dc4996fcbc" },
  tenant: { format: "opaque", id: "123456789" },
};

/** Examples of CAEP 1.0 and SSF 1.0: subject, event, and what is read of it. */
const EXAMPLES: readonly (readonly [name: string, subject: object, type: string, payload: object, want: object])[] = [
  [
    "CAEP 3.1: session-revoked of an opaque session",
    { format: "opaque", id: "dMTlD|1600802906337.16|16008.16" },
    sessionRevoked,
    { event_timestamp: 1615304991 },
    { kind: "session-revoked", happenedAtMs: 1615304991000, reason: undefined },
  ],
  [
    "CAEP 3.1: session-revoked of a complex subject, with reasons in languages",
    complex,
    sessionRevoked,
    {
      initiating_entity: "policy",
      reason_admin: { en: "Landspeed Policy Violation: C076E82F" },
      reason_user: {
        en: "Access attempt from multiple regions.",
        "es-410": "Intento de acceso desde varias regiones.",
      },
      event_timestamp: 1615304991,
    },
    { kind: "session-revoked", reason: "Landspeed Policy Violation: C076E82F" },
  ],
  [
    "CAEP 3.3: credential-change",
    { format: "iss_sub", iss: "https://idp.example.com/3456789/", sub: "jane.smith@example.com" },
    `${CAEP}credential-change`,
    {
      credential_type: "fido2-roaming",
      change_type: "create",
      fido2_aaguid: "accced6a-63f5-490a-9eea-e59bc1896cfc",
      friendly_name: "Jane's USB authenticator",
      initiating_entity: "user",
      reason_admin: { en: "User self-enrollment" },
      event_timestamp: 1615304991,
    },
    { kind: "credential-change", credentialType: "fido2-roaming", changeType: "create", x509Serial: undefined },
  ],
  [
    "CAEP 3.5: device-compliance-change",
    { format: "complex", device: { format: "iss_sub", iss: "https://idp.example.com/123456789/", sub: "e9297990" } },
    `${CAEP}device-compliance-change`,
    { current_status: "not-compliant", previous_status: "compliant", event_timestamp: 1615304991 },
    { kind: "device-compliance-change", compliant: false },
  ],
  [
    "CAEP 3.8: risk-level-change",
    { format: "iss_sub", iss: "https://idp.example.com/3456789/", sub: "jane.doe@example.com" },
    `${CAEP}risk-level-change`,
    {
      current_level: "LOW",
      previous_level: "HIGH",
      event_timestamp: 1615304991,
      principal: "USER",
      risk_reason: "PASSWORD_FOUND_IN_DATA_BREACH",
    },
    { kind: "risk-level-change", level: "LOW", about: "USER", reason: "PASSWORD_FOUND_IN_DATA_BREACH" },
  ],
  [
    "SSF 8.1.4: verification",
    { format: "opaque", id: "f67e39a0a4d34d56b3aa1bc4cff0069f" },
    "https://schemas.openid.net/secevent/ssf/event-type/verification",
    { state: "VGhpcyBpcyBhbiBleGFtcGxlIHN0YXRlIHZhbHVlLgo=" },
    { kind: "verification", state: "VGhpcyBpcyBhbiBleGFtcGxlIHN0YXRlIHZhbHVlLgo=" },
  ],
  [
    "SSF 8.1.5: stream-updated",
    { format: "opaque", id: "f67e39a0a4d34d56b3aa1bc4cff0069f" },
    "https://schemas.openid.net/secevent/ssf/event-type/stream-updated",
    { status: "paused", reason: "Internal error" },
    { kind: "stream-updated", status: "paused", reason: "Internal error" },
  ],
];
for (const [name, sub_id, type, payload, want] of EXAMPLES) {
  t.test(name, async (t) => {
    const result = parseClaims(claims({ sub_id, events: { [type]: payload } }), wanted);
    t.match(result, { ok: true, set: { txn: "8675309", events: [{ event: want }] } });
  });
}

t.test("an event's own subject counts where there is no sub_id, as in drafts of before SSF 1.0", async (t) => {
  const subject = { format: "iss_sub", iss: IDP, sub: "legacy" };
  const events = { [sessionRevoked]: { subject } };
  const result = parseClaims(claims({ sub_id: undefined, events }), wanted);
  t.match(result, { ok: true, set: { events: [{ subject: { kind: "iss_sub", sub: "legacy" } }] } });
});

t.test("exp is not looked at", async (t) => {
  t.match(parseClaims(claims({ exp: 1 }), wanted), { ok: true });
});

const serials: readonly (readonly [given: unknown, want: string | undefined])[] = [
  ["0A:1b:2C", "0a1b2c"],
  ["a1b", "0a1b"],
  ["0x00ff", "ff"],
  ["0", "00"],
  ["12 34", "1234"],
  ["not hex", undefined],
  [7, undefined],
];
for (const [given, want] of serials) {
  t.test(`a serial number ${JSON.stringify(given)} reads as ${want}`, async (t) => {
    const events = {
      [`${CAEP}credential-change`]: { credential_type: "x509", change_type: "revoke", x509_serial: given },
    };
    t.match(parseClaims(claims({ events }), wanted), { ok: true, set: { events: [{ event: { x509Serial: want } }] } });
  });
}

const faults: readonly (readonly [name: string, value: unknown, err: string])[] = [
  ["no object", [], "invalid_request"],
  ["another issuer", claims({ iss: "https://evil.example" }), "invalid_issuer"],
  ["an issuer without its slash", claims({ iss: IDP.slice(0, -1) }), "invalid_issuer"],
  ["no issuer", claims({ iss: undefined }), "invalid_issuer"],
  ["another audience", claims({ aud: "https://other.example" }), "invalid_audience"],
  ["a list of other audiences", claims({ aud: ["a", "b"] }), "invalid_audience"],
  ["no audience", claims({ aud: undefined }), "invalid_audience"],
  ["an audience that only begins so", claims({ aud: `${AUDIENCE}.evil.example` }), "invalid_audience"],
  ["no jti", claims({ jti: undefined }), "invalid_request"],
  ["an empty jti", claims({ jti: "" }), "invalid_request"],
  ["a jti that is no text", claims({ jti: 7 }), "invalid_request"],
  ["no iat", claims({ iat: undefined }), "invalid_request"],
  ["an iat that is a text", claims({ iat: String(ISSUED_AT) }), "invalid_request"],
  ["an iat 61 s ahead", claims({ iat: ISSUED_AT + 61 }), "invalid_request"],
  ["an iat too long ago", claims({ iat: ISSUED_AT - 3_661 }), "invalid_request"],
  ["no events", claims({ events: undefined }), "invalid_request"],
  ["an empty set of events", claims({ events: {} }), "invalid_request"],
  ["events as a list", claims({ events: [] }), "invalid_request"],
  ["an event that is no object", claims({ events: { [sessionRevoked]: true } }), "invalid_request"],
  [
    "17 events",
    claims({ events: Object.fromEntries(Array.from({ length: 17 }, (_, i) => [`urn:${i}`, {}])) }),
    "invalid_request",
  ],
  ["a sub beside a CAEP event", claims({ sub: "billing" }), "invalid_request"],
  ["no subject at all", claims({ sub_id: undefined }), "invalid_request"],
  [
    "a credential-change without its type",
    claims({ events: { [`${CAEP}credential-change`]: { change_type: "revoke" } } }),
    "invalid_request",
  ],
  [
    "an unknown level of risk",
    claims({ events: { [`${CAEP}risk-level-change`]: { current_level: "EXTREME" } } }),
    "invalid_request",
  ],
  [
    "an unknown compliance",
    claims({ events: { [`${CAEP}device-compliance-change`]: { current_status: "maybe" } } }),
    "invalid_request",
  ],
];
for (const [name, value, err] of faults) {
  t.test(`${name} is refused with ${err}`, async (t) => {
    t.match(parseClaims(value, wanted), { ok: false, fault: { err } });
  });
}

t.test("both edges of the window of iat are inside", async (t) => {
  t.match(parseClaims(claims({ iat: ISSUED_AT + 60 }), wanted), { ok: true });
  t.match(parseClaims(claims({ iat: ISSUED_AT - 3_660 }), wanted), { ok: true });
});

t.test("of the types of tokens only secevent+jwt is taken", async (t) => {
  for (const typ of ["secevent+jwt", "application/secevent+jwt", "SecEvent+JWT"]) t.ok(isSetType(typ), typ);
  for (const typ of ["jwt", "JWT", "at+jwt", "secevent", "secevent+jwt;x", "", undefined, 7])
    t.notOk(isSetType(typ), String(typ));
});

t.test("whatever the claims, reading them does not throw, and refusals have a registered code", async (t) => {
  const registered = ["invalid_request", "invalid_issuer", "invalid_audience"];
  const types = [sessionRevoked, `${CAEP}credential-change`, `${CAEP}risk-level-change`, "urn:other"];
  fc.assert(
    fc.property(
      fc.record(
        {
          sub_id: fc.object({ maxDepth: 3 }),
          events: fc.dictionary(fc.constantFrom(...types), fc.anything()),
          iat: fc.anything(),
          jti: fc.anything(),
          aud: fc.anything(),
        },
        { requiredKeys: [] },
      ),
      (changes) => {
        const result = parseClaims(claims(changes), wanted);
        return result.ok || registered.includes(result.fault.err);
      },
    ),
    { numRuns: 500 },
  );
  t.pass();
});
