import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import t from "tap";
import { createIssuer, createPki } from "../../scripts/pki.ts";
import { createLine } from "../../src/check/line.ts";
import { Authorizer } from "../../src/envoy/authorizer.ts";
import { KeySets } from "../../src/envoy/key-sets.ts";
import { Tokens } from "../../src/envoy/tokens.ts";
import { CheckRequestSchema, CheckResponseSchema } from "../../src/gen/envoy/service/auth/v3/external_auth_pb.ts";
import type { RequestFacts } from "../../src/model/facts.ts";
import type { Line } from "../../src/model/line.ts";
import type { Policy } from "../../src/model/policy.ts";
import type { Verdict } from "../../src/model/verdict.ts";
import { countingBytes, NOON, POLICY } from "../support/requests.ts";

const issuer = await createIssuer("https://issuer.example");
const pki = await createPki();
const web = await pki.issue({ spiffeId: "spiffe://td/web" });

const trusting: Policy = {
  ...POLICY,
  identity: {
    ...POLICY.identity,
    issuers: [
      {
        issuer: issuer.issuer,
        audiences: [],
        jwks: { kind: "url", url: "https://issuer.example/jwks.json" },
        algorithms: ["ES256"],
        clockToleranceMs: 0,
      },
    ],
  },
};

function authorizer(options: { fetch?: typeof fetch; policy?: () => Policy; line?: (line: Line) => Line } = {}) {
  const verdicts: { facts: RequestFacts; verdict: Verdict; latencyUs: number }[] = [];
  const now = Date.now;
  const key = new Uint8Array(32);
  const line = createLine({ principalsMax: 10, sessionsMax: 10, random: countingBytes() });
  const keySets = new KeySets({ now, onError: () => {}, fetch: options.fetch ?? (() => Promise.reject(new Error())) });
  let microseconds = 0;
  const made = new Authorizer({
    line: options.line?.(line) ?? line,
    policy: options.policy ?? (() => POLICY),
    tokens: new Tokens({ key, keySets, now }),
    key,
    now: () => NOON,
    microseconds: () => (microseconds += 75),
    onVerdict: (facts, verdict, latencyUs) => verdicts.push({ facts, verdict, latencyUs }),
    onError: (error) => t.error(error),
  });
  const ask = (headers: Record<string, string> = {}) => {
    const request = create(CheckRequestSchema, {
      attributes: {
        source: { principal: "spiffe://td/web", certificate: encodeURIComponent(web.certPem) },
        request: { http: { method: "GET", path: "/orders", host: "orders", headers } },
      },
    });
    return made.check(toBinary(CheckRequestSchema, request));
  };
  const check = (headers: Record<string, string> = {}) => {
    const answer = ask(headers);
    const read = (bytes: Uint8Array) => fromBinary(CheckResponseSchema, bytes);
    return answer instanceof Promise ? answer.then(read) : read(answer);
  };
  return { ask, check, verdicts, line };
}

const afterAnswers = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

t.test("without a token to verify the answer is there at once, and learning follows it", async (t) => {
  const { check, verdicts, line } = authorizer();
  const answer = check();
  t.notOk(answer instanceof Promise);
  t.match(answer, { status: { code: 0 }, dynamicMetadata: { latency_us: 75 } });
  t.same([verdicts.length, line.stats().principals], [0, 0]);
  await afterAnswers();
  t.same([verdicts.length, line.stats().principals], [1, 1]);
  t.match(verdicts[0], { facts: { destination: "orders" }, verdict: { enforced: "allow" }, latencyUs: 75 });
});

t.test("a token that cannot be verified in time is judged as unverified, not waited for", async (t) => {
  const never = (() => new Promise(() => {})) as unknown as typeof fetch;
  const { check, verdicts } = authorizer({ fetch: never, policy: () => trusting });
  const token = await issuer.token({ subject: "billing" });
  const answer = check({ authorization: `Bearer ${token}` });
  t.ok(answer instanceof Promise);
  t.match(await answer, { status: { code: 0 } });
  await afterAnswers();
  t.match(verdicts[0]?.facts.presented.token, { kind: "unverified", why: /in time/, forged: false });
  t.equal(verdicts[0]?.verdict.identity.principal.name, "spiffe://td/web");
});

t.test("an answer that had to be waited for stays as it is while others are answered", async (t) => {
  const never = (() => new Promise(() => {})) as unknown as typeof fetch;
  const { ask } = authorizer({ fetch: never, policy: () => trusting });
  const waitedFor = ask({ authorization: `Bearer ${await issuer.token({ subject: "billing" })}` });
  t.ok(waitedFor instanceof Promise);
  const answer = await waitedFor;
  const before = Buffer.from(answer);
  const other = ask();
  t.notOk(other instanceof Promise);
  t.notSame(Buffer.from(await other), before);
  t.same(Buffer.from(answer), before);
});

t.test("a request sees one policy from start to end", async (t) => {
  let asked = 0;
  const policies = [trusting, { ...POLICY, revision: "later" }];
  const { check, verdicts } = authorizer({
    fetch: (async () => new Response(JSON.stringify(issuer.jwks))) as unknown as typeof fetch,
    policy: () => policies[Math.min(asked++, 1)] as Policy,
  });
  await check({ authorization: `Bearer ${await issuer.token({ subject: "billing" })}` });
  await afterAnswers();
  t.equal(asked, 1);
  t.match(verdicts[0]?.verdict, { policyRevision: trusting.revision });
});

t.test("an error in judging is the caller's to see: nothing is allowed by mistake", async (t) => {
  const broken = authorizer({
    line: (line) => ({
      ...line,
      check: () => {
        throw new RangeError("bug");
      },
    }),
  });
  t.throws(() => broken.check(), RangeError);
});

t.test("with keys in the authorization header a bearer is no token", async (t) => {
  const keyed: Policy = { ...trusting, identity: { ...trusting.identity, apiKeyHeader: "authorization" } };
  const { check, verdicts } = authorizer({ policy: () => keyed });
  t.notOk(check({ authorization: "Bearer sk-1" }) instanceof Promise);
  await afterAnswers();
  t.match(verdicts[0]?.facts.presented, { token: { kind: "absent" }, apiKey: { kind: "unknown" } });
});
