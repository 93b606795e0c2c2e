import t from "tap";
import type { Injection } from "../../src/injector/injection.ts";
import { createLog, type Logger } from "../../src/telemetry/log.ts";
import type { InForce } from "../../src/webhook/answer.ts";
import { WebhookMetrics } from "../../src/webhook/metrics.ts";
import { reviewBody } from "../../src/webhook/reviewer.ts";
import { podOf, reviewOf, UID } from "./reviews.ts";

const gauges = { certificateExpirySeconds: () => 0, nativeSidecars: () => true, versionKnown: () => true };

/** Reviews by an injector that does this, and what was told of it. */
function reviewing(inject: () => Injection) {
  const lines: { readonly level: string; readonly fields: Readonly<Record<string, unknown>> }[] = [];
  const log = createLog("silent");
  for (const level of ["debug", "info", "warn", "error"] as const) {
    log[level] = ((fields: Record<string, unknown>) => lines.push({ level, fields })) as Logger["info"];
  }
  const metrics = new WebhookMetrics(gauges);
  const invalid: string[] = [];
  const inForce: InForce = { inject, hash: "0123456789abcdef", native: { supported: true, doubt: undefined } };
  return {
    lines,
    invalid,
    review: (body: unknown) =>
      reviewBody(Buffer.from(JSON.stringify(body)), inForce, { metrics, log, onInvalid: (why) => invalid.push(why) }),
    counted: async () => {
      const { values } = await metrics.reviews.get();
      return Object.fromEntries(
        values
          .filter(({ value }) => value > 0)
          .map(({ labels, value }) => [`${labels.result} ${labels.dry_run}`, value]),
      );
    },
  };
}

t.test(
  "a fault of the injector is HTTP 500, so that failurePolicy decides, and does not show what the Pod holds",
  async (t) => {
    const { review, lines, counted } = reviewing(() => {
      throw new RangeError("no such thing as hunter2-secret");
    });
    const { status, body } = review(reviewOf({ dryRun: true }));
    t.equal(status, 500);
    t.match(JSON.parse(body), { kind: "Status", code: 500, message: new RegExp(`internal error.*${UID}`) });
    t.match(lines, [
      {
        level: "error",
        fields: { event: "review.failed", uid: UID, namespace: "shop", code: "RangeError", at: /at / },
      },
    ]);
    t.notMatch(JSON.stringify({ lines, body }), /hunter2/);
    t.same(await counted(), { "failed true": 1 });
  },
);

t.test("what is no review is HTTP 400 and told with what was expected", async (t) => {
  const { review, lines, invalid, counted } = reviewing(() => t.fail("no review") as never);
  t.match(review({ kind: "Pod" }), { status: 400, body: /"message":"sallyport: AdmissionReview: kind: expected/ });
  t.match(invalid, [/^AdmissionReview: kind: expected AdmissionReview, got "Pod"/]);
  t.same(lines, []);
  t.same(await counted(), { "invalid false": 1 });
});

const told: readonly { readonly injection: Injection; readonly level: string; readonly fields: object }[] = [
  {
    injection: { kind: "injected", patch: [{ op: "remove", path: "/status" }], warnings: ["one"] },
    level: "info",
    fields: { event: "pod.injected", pod: "orders-0", owner: "StatefulSet/orders-7d4b9c", warnings: 1 },
  },
  {
    injection: { kind: "refused", why: "hostNetwork" },
    level: "warn",
    fields: { event: "pod.refused", why: "hostNetwork", namespace: "shop" },
  },
  {
    injection: { kind: "unchanged", why: "opted out" },
    level: "debug",
    fields: { event: "pod.unchanged", why: "opted out" },
  },
];
for (const { injection, level, fields } of told) {
  t.test(`a Pod that is ${injection.kind} is told at ${level}, and counted`, async (t) => {
    const { review, lines, counted } = reviewing(() => injection);
    t.equal(review(reviewOf({ object: podOf("StatefulSet") })).status, 200);
    t.match(lines, [{ level, fields }]);
    t.notMatch(JSON.stringify(lines), /hunter2/);
    t.same(await counted(), { [`${injection.kind} false`]: 1 });
  });
}
