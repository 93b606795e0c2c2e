import t from "tap";
import { lazyGlob } from "../../src/bundle/globs.ts";
import { createLine } from "../../src/check/line.ts";
import { Shadow, type ShadowOptions } from "../../src/check/shadow.ts";
import type { Policy, Rule } from "../../src/model/policy.ts";
import { countingBytes, NOON, POLICY, request } from "../support/requests.ts";

const denying = (name: string, path: string): Policy => {
  const rule: Rule = {
    name,
    match: { ...ANY, routes: [lazyGlob(path)] },
    mode: undefined,
    thresholds: undefined,
    decision: "deny",
    watch: undefined,
    when: undefined,
    signal: undefined,
    challenge: undefined,
    response: undefined,
  };
  return { ...POLICY, name, revision: name, rules: [rule], signal: POLICY.signal };
};
const ANY = { destinations: [], routes: [], methods: [], principals: [], peerGroups: [] };
const BROKEN: Policy = {
  ...POLICY,
  signal: () => {
    throw new Error("broken");
  },
};

function shadowing(options: Partial<ShadowOptions>) {
  const told: string[] = [];
  const shadow = new Shadow({
    candidate: () => undefined,
    share: 1,
    random: () => 0,
    onCheck: () => told.push("check"),
    onDifference: (active, candidate) => told.push(`${active} -> ${candidate}`),
    onError: (error) => told.push(String(error)),
    ...options,
  });
  const line = shadow.around(createLine({ principalsMax: 50, sessionsMax: 50, random: countingBytes() }));
  return { shadow, line, told };
}

t.test("differences are counted by both decisions, and noted on the verdict that stays in force", async (t) => {
  const candidate = denying("admin", "/admin**");
  const { shadow, line, told } = shadowing({ candidate: () => candidate });
  const [plain, admin] = ["/orders", "/admin"].map((path) => line.check(request({ path }), POLICY));
  t.equal(plain?.shadow, undefined, "the same decision is no difference");
  t.match(admin, {
    decision: { kind: "allow" },
    shadow: { policyName: "admin", policyRevision: "admin", decision: "deny", rule: "admin" },
  });
  t.same(told, ["check", "check", "allow -> deny"]);
  t.match(shadow.report(), {
    candidate: { name: "admin" },
    checks: 2,
    errors: 0,
    differences: [
      {
        active: "allow",
        candidate: "deny",
        requests: 1,
        samples: [{ facts: { path: "/admin" }, verdict: { shadow: { decision: "deny" } } }],
      },
    ],
  });
});

t.test("a candidate that throws is counted, and the request is decided as without it", async (t) => {
  const { shadow, line, told } = shadowing({ candidate: () => BROKEN });
  const alone = createLine({ principalsMax: 50, sessionsMax: 50, random: countingBytes() });
  t.same(line.check(request(), POLICY), alone.check(request(), POLICY));
  t.same(told, ["Error: broken"]);
  t.match(shadow.report(), { checks: 0, errors: 1, differences: [] });
});

t.test("so is one that cannot even be asked for", async (t) => {
  let fails = true;
  const { shadow, line, told } = shadowing({
    candidate: () => {
      if (fails) throw new Error("gone");
      return undefined;
    },
  });
  t.equal(line.check(request(), POLICY).decision.kind, "allow");
  t.same(told, ["Error: gone"]);
  fails = false;
  t.equal(shadow.report().errors, 1);
});

t.test("only the share of requests is asked about", async (t) => {
  const candidate = denying("all", "/**");
  const numbers = [0.1, 0.3, 0.24, 0.25];
  let at = 0;
  const { shadow, line } = shadowing({ candidate: () => candidate, share: 0.25, random: () => numbers[at++] ?? 0 });
  for (let i = 0; i < 4; i++) line.check(request({ at: NOON + i }), POLICY);
  t.equal(shadow.report().checks, 2);
});

t.test("samples are bounded and come evenly from all differences, oldest first", async (t) => {
  const candidate = denying("all", "/**");
  let seed = 1;
  const random = (): number => {
    seed = (seed * 16_807) % 2_147_483_647;
    return seed / 2_147_483_647;
  };
  const { shadow, line } = shadowing({ candidate: () => candidate, random });
  for (let i = 0; i < 2_000; i++) {
    const facts = request({ at: NOON + i * 1_000 });
    line.learn(facts, line.check(facts, POLICY));
  }
  const samples = shadow.report().differences[0]?.samples ?? [];
  t.equal(samples.length, 20);
  const at = samples.map(({ verdict }) => (verdict.time - NOON) / 1_000);
  t.same(
    at,
    at.toSorted((a, b) => a - b),
  );
  t.ok(at.filter((i) => i < 1_000).length >= 4 && at.filter((i) => i >= 1_000).length >= 4, at.join(" "));
});

t.test("another candidate starts the counts anew; none ends them", async (t) => {
  let candidate: Policy | undefined = denying("one", "/**");
  const { shadow, line } = shadowing({ candidate: () => candidate });
  line.check(request(), POLICY);
  t.equal(shadow.report().differences.length, 1);
  candidate = denying("two", "/none**");
  t.match(shadow.report(), { candidate: { name: "two" }, checks: 0, differences: [] });
  candidate = undefined;
  t.same(shadow.report(), { candidate: undefined, checks: 0, errors: 0, differences: [] });
});
