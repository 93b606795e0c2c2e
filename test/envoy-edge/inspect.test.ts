import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import t from "tap";
import { parse } from "yaml";
import { inspectEnvoy } from "../../src/envoy/inspect.ts";

const shipped = (name: string): string =>
  readFileSync(fileURLToPath(new URL(`../../envoy/${name}.yaml`, import.meta.url)), "utf8");
const ENFORCES = { mode: "enforce", believesXfcc: false } as const;

/** Messages that are not good, of a shipped file with one text replaced. */
function complaints(
  name: string,
  from: string | RegExp,
  to: string,
  context: Parameters<typeof inspectEnvoy>[1] = ENFORCES,
) {
  const text = shipped(name);
  const changed = text.replace(from, to);
  if (changed === text) throw new Error(`${name}: nothing to replace`);
  return inspectEnvoy(parse(changed), context)
    .filter(({ level }) => level !== "good")
    .map(({ level, message }) => `${level}: ${message}`);
}

const cases: { name: string; file: string; from: string | RegExp; to: string; says: RegExp }[] = [
  {
    name: "no question at all",
    file: "http-mtls",
    from: /ext_authz\.v3\.ExtAuthz/g,
    to: "other.v3.Other",
    says: /^bad: no ext_authz filter/,
  },
  {
    name: "no question on a connection",
    file: "tcp",
    from: /ext_authz\.v3\.ExtAuthz/g,
    to: "other.v3.Other",
    says: /^bad: no ext_authz filter/,
  },
  {
    name: "headers that callers may spoof",
    file: "http-mtls",
    from: "remove_on_match",
    to: "removed_on_match",
    says: /^bad: .*can be spoofed/,
  },
  {
    name: "fingerprints that are not set",
    file: "http-mtls",
    from: "key: x-sallyport-ja4",
    to: "key: x-other",
    says: /^warning: .*fingerprints are not seen/,
  },
  {
    name: "fingerprints that are not computed",
    file: "tcp",
    from: "enable_ja4_fingerprinting: true",
    to: "enable_ja4_fingerprinting: false",
    says: /^warning: .*fingerprints are not seen/,
  },
  {
    name: "sessions that are resumed",
    file: "http-mtls",
    from: "disable_stateless_session_resumption: true",
    to: "disable_stateless_session_resumption: false",
    says: /^warning: session resumption/,
  },
  {
    name: "no outcomes",
    file: "tcp",
    from: "TcpGrpcAccessLogConfig",
    to: "Other",
    says: /^warning: no gRPC access log/,
  },
  {
    name: "a way open while the sidecar is down",
    file: "tcp",
    from: "failure_mode_allow: false",
    to: "failure_mode_allow: true",
    says: /^warning: failure_mode_allow true.*every caller passes/,
  },
  {
    name: "an HTTP authorizer",
    file: "http-mtls",
    from: "include_tls_session: true",
    to: "http_service: {path_prefix: /}",
    says: /^bad: http_service/,
  },
  {
    name: "a time limit left to chance",
    file: "http-mtls",
    from: "timeout: 0.2s ",
    to: "# ",
    says: /^warning: grpc_service without timeout/,
  },
];
for (const { name, file, from, to, says } of cases) {
  t.test(`${name} is seen`, async (t) => {
    t.ok(
      complaints(file, from, to).some((message) => says.test(message)),
      complaints(file, from, to).join("; "),
    );
  });
}

t.test("what is refused while the sidecar is down has to agree with the mode", async (t) => {
  const closed = inspectEnvoy(parse(shipped("tcp")), { mode: "observe", believesXfcc: false });
  t.match(
    closed.filter(({ level }) => level === "warning"),
    [{ message: /nobody passes, although the policy only observes/ }],
  );
});

t.test("a policy that believes a proxy needs its header to be kept", async (t) => {
  const believing = { mode: "enforce", believesXfcc: true } as const;
  t.same(
    inspectEnvoy(parse(shipped("behind-proxy")), believing).filter(({ level }) => level !== "good"),
    [],
  );
  const [message] = inspectEnvoy(parse(shipped("http-mtls")), believing).filter(({ level }) => level !== "good");
  t.match(message, { level: "warning", message: /SANITIZE_SET drops what they send/ });
});

t.test("JSON in camel case, as Envoy's admin interface may give it, is read alike", async (t) => {
  const camel = JSON.parse(
    JSON.stringify(parse(shipped("http-mtls"))).replace(
      /"([a-z]+(?:_[a-z0-9]+)+)":/g,
      (_, key: string) => `"${key.replace(/_([a-z0-9])/g, (_match, letter: string) => letter.toUpperCase())}":`,
    ),
  );
  t.same(inspectEnvoy(camel, ENFORCES), inspectEnvoy(parse(shipped("http-mtls")), ENFORCES));
});

t.test("what is no configuration has no question in it", async (t) => {
  for (const config of [undefined, null, 17, "text", [], {}]) {
    t.match(inspectEnvoy(config, ENFORCES)[0], { level: "bad", message: /no ext_authz filter/ });
  }
  let deep: unknown = {};
  for (let i = 0; i < 10_000; i++) deep = { deep };
  t.match(inspectEnvoy(deep, ENFORCES)[0], { level: "bad" });
});
