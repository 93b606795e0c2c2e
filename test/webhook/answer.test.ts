import t from "tap";
import type { Injection, InjectionContext, JsonObject } from "../../src/injector/injection.ts";
import { answerReview, type InForce } from "../../src/webhook/answer.ts";
import { type AdmissionRequest, parseReview } from "../../src/webhook/review.ts";
import { type Asked, OWNERS, podOf, reviewOf, UID } from "./reviews.ts";

const HASH = "0123456789abcdef";
const PATCH = [{ op: "add", path: "/metadata/annotations", value: { "sallyport.dev/status": "{}" } }] as const;

function requestOf(asked: Asked): AdmissionRequest {
  const parsed = parseReview(Buffer.from(JSON.stringify(reviewOf(asked))));
  if (!parsed.ok) throw new Error(parsed.why);
  return parsed.request;
}

function inForce(injection: Injection, more: Partial<InForce> = {}): InForce {
  return { inject: () => injection, hash: HASH, native: { supported: true, doubt: undefined }, ...more };
}

for (const owner of OWNERS) {
  t.test(`a Pod of ${owner} is injected in the request's namespace`, async (t) => {
    const asked: [JsonObject, InjectionContext][] = [];
    const object = podOf(owner);
    const { outcome, answer } = answerReview(requestOf({ object, namespace: "tills" }), {
      ...inForce({ kind: "injected", patch: PATCH, warnings: ["careful"] }),
      inject: (pod, context) => {
        asked.push([pod, context]);
        return { kind: "injected", patch: PATCH, warnings: ["careful"] };
      },
    });
    t.equal(outcome, "injected");
    t.same(asked, [[object, { namespace: "tills", nativeSidecars: true }]]);
    t.same(answer, {
      uid: UID,
      allowed: true,
      patch: JSON.stringify(PATCH),
      warnings: ["careful"],
      auditAnnotations: { injection: "injected", config: HASH },
    });
  });
}

t.test("a dry run is answered as the real thing", async (t) => {
  const state = inForce({ kind: "injected", patch: PATCH, warnings: [] });
  t.same(answerReview(requestOf({ dryRun: true }), state), answerReview(requestOf({ dryRun: false }), state));
});

t.test("a Pod that cannot be injected is refused with the reason, not let through without a sidecar", async (t) => {
  const why = "hostNetwork: expected a network of the Pod's own, got the node's";
  t.same(answerReview(requestOf({}), inForce({ kind: "refused", why })), {
    outcome: "refused",
    why,
    answer: {
      uid: UID,
      allowed: false,
      warnings: [],
      auditAnnotations: { injection: "refused", reason: why, config: HASH },
      status: { code: 403, reason: "Forbidden", message: why },
    },
  });
});

t.test("one that opted out is let through without a word", async (t) => {
  const { answer } = answerReview(requestOf({}), inForce({ kind: "unchanged", why: "opted out" }));
  t.same(answer, {
    uid: UID,
    allowed: true,
    warnings: [],
    auditAnnotations: { injection: "unchanged", reason: "opted out", config: HASH },
  });
});

const others: readonly { readonly name: string; readonly asked: Asked }[] = [
  { name: "an update of a Pod", asked: { operation: "UPDATE" } },
  { name: "a deletion", asked: { operation: "DELETE", object: null } },
  { name: "a connection to a Pod", asked: { operation: "CONNECT", subResource: "exec" } },
  { name: "a subresource", asked: { subResource: "ephemeralcontainers" } },
  { name: "a Deployment", asked: { resource: { group: "apps", version: "v1", resource: "deployments" } } },
  { name: "another group's pods", asked: { resource: { group: "metrics.k8s.io", version: "v1", resource: "pods" } } },
];
for (const { name, asked } of others) {
  t.test(`${name} is let through untouched, with a word on the webhook's rules`, async (t) => {
    const { outcome, answer } = answerReview(requestOf(asked), {
      ...inForce({ kind: "unchanged", why: "" }),
      inject: () => t.fail("nothing to inject into") as never,
    });
    t.equal(outcome, "unchanged");
    t.equal(answer.allowed, true);
    t.equal(answer.patch, undefined);
    t.match(answer.warnings, [/look at the rules of the MutatingWebhookConfiguration/]);
  });
}

t.test("a static Pod's image in the API stays as the kubelet wrote it", async (t) => {
  const object = podOf("none", {}, { annotations: { "kubernetes.io/config.mirror": "4b0a5f" } });
  const { outcome, answer } = answerReview(requestOf({ object }), {
    ...inForce({ kind: "unchanged", why: "" }),
    inject: () => t.fail("a kubelet would write it anew for ever") as never,
  });
  t.equal(outcome, "unchanged");
  t.match(answer, { allowed: true, patch: undefined, warnings: [/static Pod/] });
});

t.test("doubts about native sidecars are told with what was injected", async (t) => {
  const native = { supported: false, doubt: "the version is not known" };
  const { answer } = answerReview(requestOf({}), {
    ...inForce({ kind: "injected", patch: PATCH, warnings: ["careful"] }),
    native,
  });
  t.same(answer.warnings, ["careful", "sallyport: the version is not known"]);
});

t.test("warnings fit a header: no control characters, 256 characters each, 16 at most", async (t) => {
  const warnings = ["two\nlines", "x".repeat(256), "y".repeat(257), "\ud800 half a character", ...Array(20).fill("z")];
  const { answer } = answerReview(requestOf({}), inForce({ kind: "injected", patch: PATCH, warnings }));
  t.same(answer.warnings.slice(0, 4), ["two lines", "x".repeat(256), `${"y".repeat(255)}…`, "  half a character"]);
  t.equal(answer.warnings.length, 16);
});

t.test("a long reason of a refusal fits an event", async (t) => {
  const { answer, why } = answerReview(requestOf({}), inForce({ kind: "refused", why: "w".repeat(5_000) }));
  t.equal(answer.status?.message.length, 1_000);
  t.equal(why?.length, 1_000, "nor does a Pod's own text fill the log");
});

t.test("a fault of the injector is the caller's to answer", async (t) => {
  const broken: InForce = {
    ...inForce({ kind: "unchanged", why: "" }),
    inject: () => {
      throw new RangeError("a bug");
    },
  };
  t.throws(() => answerReview(requestOf({}), broken), { name: "RangeError" });
});
