/** Looks through an Envoy configuration for what makes Sallyport blind, spoofable or fail the wrong way. */

import type { Mode } from "../model/verdict.ts";
import { OWN_PREFIX } from "./headers.ts";

export interface Finding {
  readonly level: "good" | "warning" | "bad";
  /** What was looked at. */
  readonly about: string;
  readonly message: string;
}

export interface InspectContext {
  readonly mode: Mode;
  readonly believesXfcc: boolean;
}

type Node = Readonly<Record<string, unknown>>;

/**
 * @param config a bootstrap, as YAML or JSON read into plain values, or a `/config_dump`; snake_case or camelCase
 */
export function inspectEnvoy(config: unknown, context: InspectContext): readonly Finding[] {
  const root = snake(config);
  const managers = typed(root, "HttpConnectionManager");
  const findings: Finding[] = [];
  const tunnelled = tunnelManagers(root);
  let filters = 0;
  for (const manager of managers) {
    const chain = list(manager.http_filters);
    const at = chain.findIndex((filter) => isType(configOf(filter), "http.ext_authz.v3.ExtAuthz"));
    if (at < 0) continue;
    filters++;
    if (tunnelled.has(manager)) inspectTunnel(root, manager, configOf(chain[at] as Node), context, findings);
    else inspectHttp(manager, chain, at, context, findings);
  }
  const network = typed(root, "network.ext_authz.v3.ExtAuthz");
  for (const filter of network)
    inspectAuthorizer(filter, `network ext_authz ${text(filter.stat_prefix)}`, context, findings);
  if (filters + network.length === 0) {
    findings.push(bad("ext_authz", "no ext_authz filter was found: Envoy asks nobody"));
  }
  inspectTls(root, findings);
  const logs = [...typed(root, "HttpGrpcAccessLogConfig"), ...typed(root, "TcpGrpcAccessLogConfig")];
  findings.push(
    logs.length > 0
      ? good("access logs", "outcomes reach the sidecar")
      : warning(
          "access logs",
          "no gRPC access log: error and exfiltration signals see nothing (add HttpGrpcAccessLogConfig to the streams cluster)",
        ),
  );
  return findings;
}

/** Connection managers at the other end of a tunnel inside this Envoy: no caller reaches them. */
function tunnelManagers(root: unknown): ReadonlySet<Node> {
  const found = new Set<Node>();
  for (const listener of withField(root, "internal_listener")) {
    if (!text(listener.name).startsWith("sallyport")) continue;
    for (const manager of typed(listener, "HttpConnectionManager")) found.add(manager);
  }
  return found;
}

/** What raw TCP tells of its callers stands in the headers that the tunnel is opened with. */
function inspectTunnel(
  root: unknown,
  manager: Node,
  authorizer: Node,
  context: InspectContext,
  findings: Finding[],
): void {
  const about = `tunnel ${text(manager.stat_prefix)}`;
  inspectAuthorizer(authorizer, about, context, findings);
  const said = JSON.stringify(withField(root, "tunneling_config"));
  for (const [header, lost] of [
    ["protocol", "connections are not told from HTTP"],
    ["principal", "nobody is named by a certificate"],
    ["source", "addresses are not seen"],
    ["ja4", "TLS fingerprints are not seen"],
  ] as const) {
    const name = `${OWN_PREFIX}${header}`;
    if (!said.includes(`"${name}"`)) findings.push(bad(about, `tunneling_config sets no ${name}: ${lost}`));
  }
}

function inspectHttp(
  manager: Node,
  chain: readonly Node[],
  at: number,
  context: InspectContext,
  findings: Finding[],
): void {
  const about = `http ext_authz in ${text(manager.stat_prefix)}`;
  inspectAuthorizer(configOf(chain[at] as Node), about, context, findings);
  const strips = chain.slice(0, at).some((filter) => {
    const said = JSON.stringify(filter);
    return said.includes('"remove_on_match"') && said.includes("sallyport");
  });
  findings.push(
    strips
      ? good(about, `client copies of ${OWN_PREFIX} headers are removed before the check`)
      : bad(
          about,
          `nothing removes ${OWN_PREFIX} headers that clients send: fingerprints can be spoofed (put header_mutation with remove_on_match first)`,
        ),
  );
  const sent = JSON.stringify(chain.slice(0, at));
  if (!sent.includes(`${OWN_PREFIX}ja4`)) {
    findings.push(warning(about, `${OWN_PREFIX}ja4 is not set before the check: TLS fingerprints are not seen`));
  }
  const authorizer = configOf(chain[at] as Node);
  if (authorizer.include_peer_certificate !== true && !sent.includes(`${OWN_PREFIX}peer-fp`)) {
    findings.push(
      warning(
        about,
        "neither include_peer_certificate nor x-sallyport-peer-fp: certificates are not told apart, bound tokens fail",
      ),
    );
  }
  const forwards = text(manager.forward_client_cert_details) || "SANITIZE";
  const keepsIncoming = ["FORWARD_ONLY", "APPEND_FORWARD", "ALWAYS_FORWARD_ONLY"].includes(forwards);
  if (context.believesXfcc && !keepsIncoming) {
    findings.push(
      warning(about, `the policy lists xfccHops, but forward_client_cert_details ${forwards} drops what they send`),
    );
  }
}

function inspectAuthorizer(filter: Node, about: string, { mode }: InspectContext, findings: Finding[]): void {
  if (filter.http_service !== undefined) findings.push(bad(about, "http_service: Sallyport answers grpc_service only"));
  const open = filter.failure_mode_allow === true;
  if (open && mode === "enforce") {
    findings.push(
      warning(
        about,
        "failure_mode_allow true: while the sidecar is down every caller passes, although the policy enforces",
      ),
    );
  } else if (!open && mode === "observe") {
    findings.push(
      warning(
        about,
        "failure_mode_allow false: while the sidecar is down nobody passes, although the policy only observes",
      ),
    );
  } else {
    findings.push(good(about, `failure_mode_allow ${open} agrees with mode ${mode}`));
  }
  const service = filter.grpc_service as Node | undefined;
  if (service !== undefined && service.timeout === undefined) {
    findings.push(warning(about, "grpc_service without timeout: Envoy waits 200 ms by default; say what you want"));
  }
}

function inspectTls(root: unknown, findings: Finding[]): void {
  const contexts = typed(root, "DownstreamTlsContext");
  if (contexts.length === 0) return;
  const inspectors = typed(root, "TlsInspector");
  const told = inspectors.some((inspector) => inspector.enable_ja4_fingerprinting === true);
  findings.push(
    told
      ? good("tls_inspector", "JA4 is computed")
      : warning("tls_inspector", "enable_ja4_fingerprinting is not set: TLS fingerprints are not seen"),
  );
  const resumes = contexts.some((context) => context.disable_stateless_session_resumption !== true);
  if (resumes) {
    findings.push(
      warning(
        "tls",
        "session resumption changes JA4's last part; only its cipher part then stays stable (disable_stateless_session_resumption)",
      ),
    );
  }
}

/** Every object whose `@type` ends with `suffix`, at any depth. */
function typed(root: unknown, suffix: string): readonly Node[] {
  const found: Node[] = [];
  const walk = (value: unknown, depth: number): void => {
    if (depth > 64 || typeof value !== "object" || value === null) return;
    if (!Array.isArray(value) && isType(value as Node, suffix)) found.push(value as Node);
    for (const child of Object.values(value)) walk(child, depth + 1);
  };
  walk(root, 0);
  return found;
}

/** Every object that has a field, at any depth. */
function withField(root: unknown, field: string): readonly Node[] {
  const found: Node[] = [];
  const walk = (value: unknown, depth: number): void => {
    if (depth > 64 || typeof value !== "object" || value === null) return;
    if (!Array.isArray(value) && field in value) found.push(value as Node);
    for (const child of Object.values(value)) walk(child, depth + 1);
  };
  walk(root, 0);
  return found;
}

function isType(node: Node | undefined, suffix: string): boolean {
  return typeof node?.["@type"] === "string" && node["@type"].endsWith(suffix);
}

function configOf(filter: Node): Node {
  return (filter.typed_config ?? {}) as Node;
}

function list(value: unknown): readonly Node[] {
  return Array.isArray(value) ? (value as Node[]) : [];
}

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}

/** Envoy reads both spellings of a field. Keys with a dot or a dash are names, not fields. */
function snake(value: unknown, depth = 0): unknown {
  if (depth > 64 || typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return value.map((child) => snake(child, depth + 1));
  return Object.fromEntries(
    Object.entries(value).map(([key, child]) => [
      /^[a-z][A-Za-z0-9]*$/.test(key) ? key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`) : key,
      snake(child, depth + 1),
    ]),
  );
}

function good(about: string, message: string): Finding {
  return { level: "good", about, message };
}

function warning(about: string, message: string): Finding {
  return { level: "warning", about, message };
}

function bad(about: string, message: string): Finding {
  return { level: "bad", about, message };
}
