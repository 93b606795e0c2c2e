import fc from "fast-check";
import t from "tap";
import { parseReview, writeReview, writeStatus } from "../../src/webhook/review.ts";
import { podOf, reviewOf, UID } from "./reviews.ts";

const bytes = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));

t.test("what matters of a review is read", async (t) => {
  t.match(parseReview(bytes(reviewOf({ object: podOf("ReplicaSet"), dryRun: true }))), {
    ok: true,
    request: {
      uid: UID,
      resource: "/v1/pods",
      operation: "CREATE",
      namespace: "shop",
      name: "orders-7d4b9c-*",
      owner: "ReplicaSet/orders-7d4b9c",
      dryRun: true,
    },
  });
  t.match(parseReview(bytes(reviewOf({ object: podOf("none") }))), { request: { name: "orders", owner: undefined } });
});

t.test("a deletion has a name and no object", async (t) => {
  t.match(parseReview(bytes(reviewOf({ object: null, operation: "DELETE", name: "orders-0" }))), {
    ok: true,
    request: { object: undefined, name: "orders-0", operation: "DELETE" },
  });
});

t.test("subresources and groups are told apart", async (t) => {
  const resource = { group: "apps", version: "v1", resource: "deployments" };
  t.match(parseReview(bytes(reviewOf({ resource, subResource: "scale" }))), {
    request: { resource: "apps/v1/deployments/scale" },
  });
});

const refused: readonly { readonly name: string; readonly body: unknown; readonly why: RegExp }[] = [
  { name: "a list", body: [], why: /the body: expected an object, got a list/ },
  {
    name: "another kind",
    body: { kind: "ConversionReview", apiVersion: "apiextensions.k8s.io/v1" },
    why: /kind: expected AdmissionReview, got "ConversionReview"/,
  },
  {
    name: "version v1beta1",
    body: { ...reviewOf({}), apiVersion: "admission.k8s.io/v1beta1" },
    why: /apiVersion: expected admission\.k8s\.io\/v1 .*, got "admission\.k8s\.io\/v1beta1"/,
  },
  { name: "no request", body: { ...reviewOf({}), request: null }, why: /request: expected an object, got null/ },
  { name: "an empty uid", body: reviewOf({ uid: "" }), why: /request\.uid: expected a text/ },
  { name: "a uid of 129 characters", body: reviewOf({ uid: "u".repeat(129) }), why: /request\.uid: expected a text/ },
  { name: "a namespace of 64 characters", body: reviewOf({ namespace: "n".repeat(64) }), why: /request\.namespace/ },
  {
    name: "an object nested without end",
    body: reviewOf({ object: JSON.parse(`{"a":${"[".repeat(256)}${"]".repeat(256)}}`) as never }),
    why: /request\.object: expected at most 256 levels of lists and objects, got more/,
  },
  {
    name: "an object that is a text",
    body: reviewOf({ object: "hunter2-secret" as never }),
    why: /request\.object: expected an object or null, got a string/,
  },
  {
    name: "dryRun as text",
    body: reviewOf({ dryRun: "true" as never }),
    why: /request\.dryRun: expected true or false/,
  },
  { name: "no resource", body: reviewOf({ resource: null as never }), why: /request\.resource: .*got null/ },
];
for (const { name, body, why } of refused) {
  t.test(`${name} is no review, and the answer says why without quoting the object`, async (t) => {
    const parsed = parseReview(bytes(body));
    t.match(parsed, { ok: false, why });
    t.notMatch(JSON.stringify(parsed), /hunter2/);
  });
}

t.test("both sides of the longest uid and namespace", async (t) => {
  t.match(parseReview(bytes(reviewOf({ uid: "u".repeat(128), namespace: "n".repeat(63) }))), { ok: true });
});

t.test("bytes that are no JSON or no UTF-8 are no review", async (t) => {
  t.match(parseReview(Buffer.from("{")), { ok: false, why: /expected JSON in UTF-8, got 1 bytes/ });
  t.match(parseReview(Buffer.from([0x22, 0xff, 0x22])), { ok: false, why: /expected JSON in UTF-8/ });
  t.match(parseReview(Buffer.alloc(0)), { ok: false });
});

t.test("whatever comes is read or turned down, never thrown at", async () => {
  const part = fc.oneof(fc.jsonValue(), fc.constant("AdmissionReview"), fc.constant("admission.k8s.io/v1"));
  const shape = fc.record(
    {
      kind: fc.constantFrom("AdmissionReview", "Pod"),
      apiVersion: fc.constantFrom("admission.k8s.io/v1", "v1"),
      request: fc.oneof(
        fc.jsonValue(),
        fc.record(
          {
            uid: part,
            namespace: part,
            operation: part,
            resource: fc.oneof(part, fc.record({ group: part, version: part, resource: part })),
            subResource: part,
            object: fc.oneof(part, fc.record({ metadata: part, spec: part })),
          },
          { requiredKeys: [] },
        ),
      ),
    },
    { requiredKeys: [] },
  );
  fc.assert(
    fc.property(fc.oneof(shape, fc.jsonValue()), (value) => {
      const parsed = parseReview(bytes(value));
      return parsed.ok ? parsed.request.uid !== "" : parsed.why.startsWith("AdmissionReview: ");
    }),
    { numRuns: 500 },
  );
});

t.test("every uid that is taken comes back as it was", async () => {
  fc.assert(
    fc.property(fc.string({ minLength: 1, maxLength: 128, unit: "grapheme" }), (uid) => {
      const parsed = parseReview(bytes(reviewOf({ uid })));
      if (!parsed.ok) return uid.length > 128;
      const answer = JSON.parse(
        writeReview({ uid: parsed.request.uid, allowed: true, warnings: [], auditAnnotations: {} }),
      ) as { response: { uid: string } };
      return answer.response.uid === uid;
    }),
  );
});

t.test("an answer has patch and patchType together or neither, as the API server demands", async (t) => {
  const plain = { uid: UID, allowed: true, warnings: [], auditAnnotations: { injection: "unchanged" } };
  t.same(JSON.parse(writeReview(plain)), {
    apiVersion: "admission.k8s.io/v1",
    kind: "AdmissionReview",
    response: { uid: UID, allowed: true, auditAnnotations: { injection: "unchanged" } },
  });
  t.same(JSON.parse(writeReview({ ...plain, patch: "[]", warnings: ["one"] })), {
    apiVersion: "admission.k8s.io/v1",
    kind: "AdmissionReview",
    response: {
      uid: UID,
      allowed: true,
      patchType: "JSONPatch",
      patch: "W10=",
      warnings: ["one"],
      auditAnnotations: { injection: "unchanged" },
    },
  });
});

t.test("an error is a Status, whose message API servers repeat", async (t) => {
  t.same(JSON.parse(writeStatus(400, "BadRequest", "what was wrong")), {
    apiVersion: "v1",
    kind: "Status",
    metadata: {},
    status: "Failure",
    code: 400,
    reason: "BadRequest",
    message: "what was wrong",
  });
});
