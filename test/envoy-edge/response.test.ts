import { inspect, isDeepStrictEqual } from "node:util";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import fc from "fast-check";
import t from "tap";
import { responseOf as bytesOf, type Proving, type ResponseContext } from "../../src/envoy/response.ts";
import { type CheckResponse, CheckResponseSchema } from "../../src/gen/envoy/service/auth/v3/external_auth_pb.ts";
import { ErrorInfoSchema } from "../../src/gen/google/rpc/error_details_pb.ts";
import { StatusSchema } from "../../src/gen/google/rpc/status_pb.ts";
import type { Protocol } from "../../src/model/facts.ts";
import type { ResponsePolicy } from "../../src/model/policy.ts";
import { toEpochMs, toScore } from "../../src/model/units.ts";
import type { Challenge, Decision, DecisionKind, Verdict } from "../../src/model/verdict.ts";
import { expectedResponse } from "../support/expected-response.ts";

const ID = "019caeb6-3000-7000-8000-000000000001";
const CHALLENGE: Challenge = {
  kind: "step_up",
  issuedAfter: toEpochMs(Date.parse("2026-03-02T12:00:00Z")),
  acrValues: [],
  maxAgeSeconds: undefined,
};
const DECISIONS: Readonly<Record<DecisionKind, Decision>> = {
  allow: { kind: "allow" },
  challenge: { kind: "challenge", challenge: CHALLENGE },
  deny: { kind: "deny", because: "score", rate: false },
  terminate: { kind: "terminate", because: "lock" },
};

function verdict(decision: Decision, changes: Partial<Verdict> = {}): Verdict {
  return {
    decisionId: ID,
    time: toEpochMs(Date.parse("2026-03-02T12:00:00Z")),
    identity: {
      principal: { kind: "spiffe", name: "spiffe://td/web" },
      second: undefined,
      delegated: false,
      credential: "none",
      proven: true,
    },
    score: toScore(42.5),
    reasons: [
      { signal: "origin.address", bits: 10, points: 40, seen: "new address", expected: "10.0.0.1" },
      { signal: "usage.route", bits: 1, points: 2.5, seen: "new route", expected: "/orders" },
      { signal: "usage.hour", bits: 2, points: 0, seen: "night", expected: "day" },
    ],
    decision,
    enforced: decision.kind,
    mode: "enforce",
    rule: "default",
    policyRevision: "r-1",
    policyName: "p",
    thresholds: { challenge: 26, deny: 36, terminate: 70 },
    ruleThresholds: undefined,
    route: "/orders",
    answered: false,
    watch: false,
    ...changes,
  };
}

function responseOf(given: Verdict, context: ResponseContext): CheckResponse {
  return fromBinary(CheckResponseSchema, bytesOf(given, context));
}

const QUIET: ResponsePolicy = { revealReasons: false, upstreamHeaders: true };

function respond(given: Verdict, protocol: Protocol = "http", policy = QUIET, ownHeaders: readonly string[] = []) {
  return responseOf(given, { protocol, policy, ownHeaders, latencyUs: 120 });
}

function headersOf({ httpResponse }: CheckResponse): Record<string, string> {
  if (httpResponse.case !== "okResponse" && httpResponse.case !== "deniedResponse") return {};
  return Object.fromEntries(
    httpResponse.value.headers.map(({ header }) => [header?.key ?? "", header?.value ?? ""] as const),
  );
}

function deniedOf({ httpResponse }: CheckResponse): { status: number | undefined; body: string } {
  if (httpResponse.case !== "deniedResponse") throw new Error(`not denied: ${httpResponse.case}`);
  return { status: httpResponse.value.status?.code, body: httpResponse.value.body };
}

t.test("an allowed request tells the service the decision", async (t) => {
  const response = respond(verdict(DECISIONS.allow));
  t.equal(response.status?.code, 0);
  t.same(headersOf(response), {
    "x-sallyport-decision": "allow",
    "x-sallyport-score": "42.5",
    "x-sallyport-decision-id": ID,
    "x-sallyport-principal": "spiffe://td/web",
  });
});

t.test("what came in under our prefix goes out again only where we set it", async (t) => {
  const own = ["x-sallyport-ja4", "x-sallyport-decision", "x-sallyport-anything"];
  const removed = (policy: ResponsePolicy) => {
    const { httpResponse } = respond(verdict(DECISIONS.allow), "http", policy, own);
    return httpResponse.case === "okResponse" ? httpResponse.value.headersToRemove : undefined;
  };
  t.same(removed(QUIET), ["x-sallyport-ja4", "x-sallyport-anything"]);
  t.same(removed({ ...QUIET, upstreamHeaders: false }), own);
});

t.test("the service is told nothing where the policy says so", async (t) => {
  t.same(headersOf(respond(verdict(DECISIONS.allow), "http", { ...QUIET, upstreamHeaders: false })), {});
});

t.test("a principal's name is a header value whatever it holds", async (t) => {
  const identity = {
    ...verdict(DECISIONS.allow).identity,
    principal: { kind: "jwt" as const, name: "https://i|zoë x\r\n" },
  };
  const { "x-sallyport-principal": principal } = headersOf(respond(verdict(DECISIONS.allow, { identity })));
  t.equal(principal, "https://i|zo%C3%AB%20x%0D%0A");
});

const refusals: { decision: Decision; http: number; grpc: number; reason: string; title: string }[] = [
  {
    decision: DECISIONS.challenge,
    http: 401,
    grpc: 16,
    reason: "CHALLENGE",
    title: "A credential issued after this challenge is needed",
  },
  { decision: DECISIONS.deny, http: 403, grpc: 7, reason: "DENIED", title: "Access denied" },
  {
    decision: { kind: "deny", because: "score", rate: true },
    http: 429,
    grpc: 8,
    reason: "RATE",
    title: "Too many requests",
  },
  { decision: DECISIONS.terminate, http: 403, grpc: 7, reason: "TERMINATED", title: "Session ended" },
];
for (const { decision, http, grpc, reason, title } of refusals) {
  t.test(
    `${reason.toLowerCase()}: HTTP ${http} with a problem, gRPC ${grpc} with ErrorInfo and no body, TCP the bare status`,
    async (t) => {
      const overHttp = respond(verdict(decision));
      const { status, body } = deniedOf(overHttp);
      t.equal(status, http);
      t.match(headersOf(overHttp), {
        "content-type": "application/problem+json",
        "cache-control": "no-store",
        "x-sallyport-decision-id": ID,
      });
      const problem = JSON.parse(body) as Record<string, unknown>;
      t.match(problem, {
        type: `https://sallyport.dev/problems/${reason.toLowerCase()}`,
        title,
        status: http,
        decision_id: ID,
      });
      t.notOk("reasons" in problem || "score" in problem, "and no reasons");

      const overGrpc = respond(verdict(decision), "grpc");
      const headers = headersOf(overGrpc);
      t.match(headers, { "grpc-status": String(grpc), "grpc-message": title });
      t.equal(deniedOf(overGrpc).body, "");
      const details = fromBinary(StatusSchema, Buffer.from(headers["grpc-status-details-bin"] ?? "", "base64"));
      t.match(details, { code: grpc, message: title });
      t.match(anyUnpack(details.details[0]!, ErrorInfoSchema), {
        reason,
        domain: "sallyport.dev",
        metadata: { decision_id: ID },
      });

      const overTcp = respond(verdict(decision), "tcp");
      t.equal(overTcp.status?.code, grpc);
      t.equal(overTcp.httpResponse.case, undefined);
    },
  );
}

t.test("reasons are told where the policy reveals them", async (t) => {
  const { body } = deniedOf(respond(verdict(DECISIONS.deny), "http", { ...QUIET, revealReasons: true }));
  t.match(JSON.parse(body), { score: 42.5, reasons: [{ signal: "origin.address", points: 40 }] });
  t.notOk(body.includes("10.0.0.1"), "but never what was seen or expected");
});

t.test("a challenge says what answers it, as RFC 9470 wants it", async (t) => {
  const plain = headersOf(respond(verdict(DECISIONS.challenge)));
  t.equal(
    plain["www-authenticate"],
    'Bearer error="insufficient_user_authentication", error_description="A token issued after this challenge is needed", max_age="0"',
  );
  t.match(plain, { "x-sallyport-challenge": "step-up", "x-sallyport-issued-after": "1772452800" });
  const strict = verdict({
    kind: "challenge",
    challenge: { ...CHALLENGE, acrValues: ["gold", "silver"], maxAgeSeconds: 60 },
  });
  t.match(headersOf(respond(strict))["www-authenticate"], /max_age="60", acr_values="gold silver"$/);
  t.match(JSON.parse(deniedOf(respond(strict)).body), { issued_after: "2026-03-02T12:00:00.000Z" });
});

t.test("the access log gets the decision, what was carried out, and the reasons that count", async (t) => {
  t.same(respond(verdict(DECISIONS.deny)).dynamicMetadata, {
    decision: "deny",
    enforced: "deny",
    score: 42.5,
    reasons: ["origin.address:40", "usage.route:2.5"],
    principal: "spiffe://td/web",
    decision_id: ID,
    policy_revision: "r-1",
    mode: "enforce",
    latency_us: 120,
  });
});

t.test("only a termination that is carried out ends the connection", async (t) => {
  t.equal(respond(verdict(DECISIONS.terminate)).dynamicMetadata?.terminate, true);
  const observed = respond(verdict(DECISIONS.terminate, { mode: "observe", enforced: "allow" }));
  t.match(observed, { status: { code: 0 }, dynamicMetadata: { decision: "terminate", enforced: "allow" } });
  t.notOk("terminate" in (observed.dynamicMetadata ?? {}));
  t.equal(headersOf(observed)["x-sallyport-decision"], "terminate");
});

t.test("streams are held only where they may go on", async (t) => {
  t.equal(respond(verdict(DECISIONS.allow, { watch: true })).dynamicMetadata?.watch, true);
  t.notOk("watch" in (respond(verdict(DECISIONS.deny, { watch: true })).dynamicMetadata ?? {}));
});

const OWN: ResponsePolicy = {
  ...QUIET,
  headers: new Map([
    ["x-support", "https://help.example/{decision_id}"],
    ["x-who", "{principal}"],
    ["cache-control", "no-cache"],
  ]),
  bodies: {
    deny: {
      contentType: "application/json",
      text: '{"id":"{decision_id}","who":"{principal}","why":"{decision}","other":"{braces}"}',
      grpcMessage: "denied, ask with {decision_id} (100 %)",
    },
    challenge: { contentType: "text/html", text: "<p>{principal}</p>", grpcMessage: undefined },
  },
};

const quoted = verdict(DECISIONS.deny, {
  identity: { ...verdict(DECISIONS.deny).identity, principal: { kind: "jwt", name: 'https://i|"zoë"<\r\n' } },
});

t.test("a policy's body and headers hold the verdict's own texts, escaped for where they stand", async (t) => {
  const response = respond(quoted, "http", OWN);
  t.same(JSON.parse(deniedOf(response).body), {
    id: ID,
    who: 'https://i|"zoë"<\r\n',
    why: "deny",
    other: "{braces}",
  });
  t.match(headersOf(response), {
    "content-type": "application/json",
    "cache-control": "no-cache",
    "x-support": `https://help.example/${ID}`,
    "x-who": 'https://i|"zo%C3%AB"<%0D%0A',
    "x-sallyport-decision-id": ID,
  });
  const html = deniedOf(respond({ ...quoted, decision: DECISIONS.challenge, enforced: "challenge" }, "http", OWN));
  t.equal(html.body, "<p>https://i|&#34;zoë&#34;&#60;\r\n</p>");
  t.match(JSON.parse(deniedOf(respond(verdict(DECISIONS.terminate), "http", OWN)).body), { title: "Session ended" });
});

t.test("a policy's gRPC message is percent-encoded, and its headers come along", async (t) => {
  const response = respond(quoted, "grpc", OWN);
  const headers = headersOf(response);
  t.match(headers, { "grpc-message": `denied, ask with ${ID} (100 %25)`, "x-support": `https://help.example/${ID}` });
  const details = fromBinary(StatusSchema, Buffer.from(headers["grpc-status-details-bin"] ?? "", "base64"));
  t.equal(details.message, `denied, ask with ${ID} (100 %)`);
  t.equal(deniedOf(response).body, "", "without a body, which Envoy would not send");
  t.equal(headersOf(respond(verdict(DECISIONS.terminate), "grpc", OWN))["grpc-message"], "Session ended");
});

t.test("a rule's response counts instead of the policy's", async (t) => {
  const response = { ...QUIET, bodies: { deny: { contentType: "text/plain", text: "no", grpcMessage: undefined } } };
  t.equal(deniedOf(respond(verdict(DECISIONS.deny, { response }), "http", OWN)).body, "no");
});

t.test("a forwarded challenge lets through and tells the service, whatever else it is told", async (t) => {
  const decision: Decision = { kind: "challenge", challenge: { ...CHALLENGE, kind: "forward" } };
  const forwarded = verdict(decision, { enforced: "allow" });
  const own = ["x-sallyport-challenge", "x-sallyport-issued-after", "x-sallyport-else"];
  const told = respond(forwarded, "http", { ...QUIET, upstreamHeaders: false }, own);
  t.equal(told.status?.code, 0);
  t.same(headersOf(told), { "x-sallyport-challenge": "step-up", "x-sallyport-issued-after": "1772452800" });
  t.same(told.httpResponse.case === "okResponse" ? told.httpResponse.value.headersToRemove : [], ["x-sallyport-else"]);
  t.match(headersOf(respond(forwarded)), { "x-sallyport-decision": "challenge", "x-sallyport-challenge": "step-up" });
  const observed = respond({ ...forwarded, mode: "observe" });
  t.notOk("x-sallyport-challenge" in headersOf(observed), "nothing is put where nothing is carried out");
  t.match(respond(verdict(decision, { enforced: "allow", peerGroup: "web" })).dynamicMetadata, {
    decision: "challenge",
    enforced: "allow",
    peer_group: "web",
  });
});

const PROOFS: NonNullable<ResponseContext["proofs"]> = {
  dpopChallenge: () => ({ "www-authenticate": 'DPoP error="use_dpop_nonce"', "dpop-nonce": "n1" }),
  dpopNonce: () => "n2",
  signatureChallenge: (fields) => ({ "accept-signature": `sallyport=(${fields.join(" ")})` }),
};
const PROVING: Proving = { scheme: "Bearer", nonceDue: false, fields: [] };

function challengedBy(kind: Challenge["kind"], protocol: Protocol = "http", proving: Partial<Proving> = {}) {
  return responseOf(verdict({ kind: "challenge", challenge: { ...CHALLENGE, kind } }), {
    protocol,
    policy: QUIET,
    ownHeaders: [],
    latencyUs: 1,
    proofs: PROOFS,
    proving: { ...PROVING, ...proving },
  });
}

const asking: readonly { kind: Challenge["kind"]; says: Record<string, unknown>; proving?: Partial<Proving> }[] = [
  {
    kind: "dpop",
    says: { "www-authenticate": 'DPoP error="use_dpop_nonce"', "dpop-nonce": "n1", "x-sallyport-challenge": "dpop" },
  },
  {
    kind: "http_signature",
    proving: { fields: ["authorization"] },
    says: {
      "www-authenticate": /^Signature /,
      "accept-signature": "sallyport=(authorization)",
      "x-sallyport-challenge": "http-signature",
    },
  },
  {
    kind: "certificate_bound",
    says: { "www-authenticate": /^Bearer error="invalid_token"/, "x-sallyport-challenge": "certificate-bound" },
  },
  {
    kind: "step_up",
    proving: { scheme: "DPoP" },
    says: { "www-authenticate": /^DPoP error="insufficient_user_authentication"/ },
  },
];
for (const { kind, says, proving } of asking) {
  t.test(`a challenge of kind ${kind} asks in its own way, over HTTP and gRPC alike`, async (t) => {
    for (const protocol of ["http", "grpc"] as const) {
      const headers = headersOf(challengedBy(kind, protocol, proving));
      t.match(headers, says);
      t.equal("x-sallyport-issued-after" in headers, kind === "step_up" || kind === "certificate_bound");
      if (protocol === "grpc") t.equal(headers["grpc-status"], "16");
    }
  });
}

t.test("raw TCP callers are asked nothing: there is no place for it", async (t) => {
  t.equal(challengedBy("dpop", "tcp").httpResponse.case, undefined);
});

t.test("a nonce that grows old is replaced by whatever answer is next", async (t) => {
  const told = (decision: Decision, nonceDue: boolean): unknown => {
    const { httpResponse } = responseOf(verdict(decision), {
      protocol: "http",
      policy: QUIET,
      ownHeaders: [],
      latencyUs: 1,
      proofs: PROOFS,
      proving: { ...PROVING, nonceDue },
    });
    const headers =
      httpResponse.case === "okResponse"
        ? httpResponse.value.responseHeadersToAdd
        : httpResponse.case === "deniedResponse"
          ? httpResponse.value.headers
          : [];
    return headers.find(({ header }) => header?.key === "dpop-nonce")?.header?.value;
  };
  t.same([told(DECISIONS.allow, true), told(DECISIONS.allow, false)], ["n2", undefined]);
  t.same([told(DECISIONS.deny, true), told(DECISIONS.deny, false)], ["n2", undefined]);
});

const names = fc.oneof(
  fc.constantFrom("spiffe://td/web", "https://i|zoë x\r\n", "anonymous", "\u{1F600}", `spiffe://td/${"w".repeat(300)}`),
  fc.string({ unit: "binary", maxLength: 80 }),
);
const challenges: fc.Arbitrary<Challenge> = fc.record({
  kind: fc.constantFrom("dpop", "http_signature", "certificate_bound", "step_up", "forward"),
  issuedAfter: fc.nat().map((seconds) => toEpochMs(seconds * 1_000)),
  acrValues: fc.subarray(["gold", "silver"]),
  maxAgeSeconds: fc.option(fc.nat(3_600), { nil: undefined }),
});
const decisions: fc.Arbitrary<Decision> = fc.oneof(
  fc.constant(DECISIONS.allow),
  challenges.map((challenge) => ({ kind: "challenge", challenge }) as const),
  fc.boolean().map((rate) => ({ kind: "deny", because: "score", rate }) as const),
  fc.constant(DECISIONS.terminate),
);
const reasons = fc.array(
  fc.record({
    signal: fc.constantFrom("origin.address", "usage.route"),
    bits: fc.constant(1),
    points: fc.constantFrom(0, 2.5, 40, -3),
    seen: fc.constant("s"),
    expected: fc.constant("e"),
  }),
  { maxLength: 12 },
);
const policies: fc.Arbitrary<ResponsePolicy> = fc
  .tuple(fc.constantFrom(QUIET, OWN), fc.boolean(), fc.boolean())
  .map(([policy, revealReasons, upstreamHeaders]) => ({ ...policy, revealReasons, upstreamHeaders }));
const verdicts: fc.Arbitrary<Verdict> = fc
  .record({
    decision: decisions,
    forwards: fc.boolean(),
    mode: fc.constantFrom("enforce" as const, "observe" as const),
    score: fc.constantFrom(0, 0.1, 42.5, 100).map(toScore),
    reasons,
    name: names,
    watch: fc.boolean(),
    peerGroup: fc.constantFrom(undefined, "web", "größe"),
    policyRevision: fc.constantFrom("r-1", "", "révision"),
    response: fc.option(policies, { nil: undefined }),
  })
  .map(({ name, forwards, ...changes }) => {
    const { identity } = verdict(changes.decision);
    return verdict(changes.decision, {
      ...changes,
      identity: { ...identity, principal: { kind: "jwt", name } },
      enforced: forwards || changes.mode === "observe" ? "allow" : changes.decision.kind,
    });
  });
const contexts: fc.Arbitrary<ResponseContext> = fc.record(
  {
    protocol: fc.constantFrom("http" as const, "grpc" as const, "tcp" as const),
    policy: policies,
    ownHeaders: fc.subarray(["x-sallyport-ja4", "x-sallyport-decision", "x-sallyport-challenge", "x-sallyport-\u00fc"]),
    latencyUs: fc.nat(),
    policyFreshness: fc.constantFrom("fresh" as const, "stale" as const),
    proofs: fc.constantFrom(undefined, PROOFS),
    proving: fc.record({
      scheme: fc.constantFrom("Bearer" as const, "DPoP" as const),
      nonceDue: fc.boolean(),
      fields: fc.subarray(["authorization"]),
    }),
  },
  { requiredKeys: ["protocol", "policy", "ownHeaders", "latencyUs"] },
);

t.test("what is assembled from bytes is what an encoder would make of the response", async (t) => {
  fc.assert(
    fc.property(verdicts, contexts, (given, context) => {
      // Through the encoder, too: what an object leaves undefined is not sent.
      const expected = fromBinary(CheckResponseSchema, toBinary(CheckResponseSchema, expectedResponse(given, context)));
      const { $unknown: _none, ...response } = responseOf(given, context);
      const { $unknown: _neither, ...wanted } = expected;
      if (!isDeepStrictEqual(response, wanted)) throw new Error(inspect({ response, wanted }, { depth: 9 }));
    }),
    { numRuns: 1_500, interruptAfterTimeLimit: 20_000 },
  );
  t.pass();
});

t.test("a response that could not be finished leaves nothing in the next one", async (t) => {
  const proofs: NonNullable<ResponseContext["proofs"]> = {
    ...PROOFS,
    dpopNonce: () => {
      throw new RangeError("bug");
    },
  };
  const context: ResponseContext = { protocol: "http", policy: QUIET, ownHeaders: [], latencyUs: 1 };
  const before = bytesOf(verdict(DECISIONS.allow), context);
  const due = { ...context, proofs, proving: { ...PROVING, nonceDue: true } };
  t.throws(() => bytesOf(verdict(DECISIONS.allow), due), RangeError);
  t.same(bytesOf(verdict(DECISIONS.allow), context), before);
});

t.test("a response of a megabyte is whole, and so is the next one", async (t) => {
  const text = "ü".repeat(500_000);
  const policy = { ...QUIET, bodies: { deny: { contentType: "text/plain", text, grpcMessage: undefined } } };
  t.equal(deniedOf(respond(verdict(DECISIONS.deny), "http", policy)).body, text);
  t.match(headersOf(respond(verdict(DECISIONS.allow))), { "x-sallyport-decision": "allow" });
});
