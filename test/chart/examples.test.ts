import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import t from "tap";
import { parse } from "yaml";
import { runCommand } from "../../scripts/demo/sidecar.ts";
import type { Bootstrap } from "../../scripts/run-envoy.ts";
import { fetchOnce, nodeClient } from "../support/clients.ts";
import { eventually, metric, startGuarded, startOrders } from "../support/guarded.ts";
import { objectsIn, one, type Rendered } from "./helm.ts";

const EXAMPLES = fileURLToPath(new URL("../../k8s/examples", import.meta.url));
const HCM = "envoy.filters.network.http_connection_manager";
const TYPE = "type.googleapis.com/envoy.extensions";
const EXT_AUTHZ = `${TYPE}.filters.http.ext_authz.v3.ExtAuthz`;
/** Envoy is waited for longer than the examples say: machines of tests do much else meanwhile. */
const PATIENT = "5s";

// biome-ignore lint/suspicious/noExplicitAny: Envoy's configuration, put together from outside
type Any = any;

function example(...names: readonly string[]): readonly Rendered[] {
  return names.flatMap((name) => objectsIn(readFileSync(`${EXAMPLES}/${name}`, "utf8")));
}

/** As protobuf merges: messages field by field, lists one after the other, everything else is replaced. */
function merge(into: Any, from: Any): Any {
  if (Array.isArray(into) && Array.isArray(from)) return [...into, ...from];
  if (typeof into !== "object" || typeof from !== "object" || into === null || from === null) return from;
  const merged: Any = { ...into };
  for (const [key, value] of Object.entries(from)) merged[key] = key in into ? merge(into[key], value) : value;
  return merged;
}

interface Parts {
  readonly listener: Any;
  /** Of the connection manager. */
  readonly manager: Any;
  readonly route: Any;
}

function partsOf(bootstrap: Bootstrap): Parts {
  const listener: Any = bootstrap.static_resources.listeners[0];
  const manager = listener.filter_chains[0].filters[0].typed_config;
  return { listener, manager, route: manager.route_config.virtual_hosts[0].routes[0] };
}

function rename(bootstrap: Bootstrap, names: Readonly<Record<string, string>>): void {
  for (const cluster of bootstrap.static_resources.clusters) {
    const name = names[cluster.name];
    if (name === undefined) continue;
    cluster.name = name;
    cluster.load_assignment.cluster_name = name;
  }
}

function jsonLog(format: object): object {
  return {
    name: "envoy.access_loggers.stdout",
    typed_config: { "@type": `${TYPE}.access_loggers.stream.v3.StdoutAccessLog`, log_format: { json_format: format } },
  };
}

function grpcLog(cluster: string, authority: string, headers: readonly string[], trailers: readonly string[]): object {
  return {
    name: "envoy.access_loggers.http_grpc",
    typed_config: {
      "@type": `${TYPE}.access_loggers.grpc.v3.HttpGrpcAccessLogConfig`,
      common_config: {
        log_name: "sallyport",
        transport_api_version: "V3",
        grpc_service: { envoy_grpc: { cluster_name: cluster, authority } },
        buffer_flush_interval: "0.1s",
      },
      additional_response_headers_to_log: headers,
      additional_response_trailers_to_log: trailers,
    },
  };
}

/** Undoes what the shipped configuration has beyond what a mesh or gateway would make. */
function plain({ listener, manager }: Parts): void {
  listener.listener_filters[0].typed_config = { "@type": `${TYPE}.filters.listener.tls_inspector.v3.TlsInspector` };
  for (const key of ["path_with_escaped_slashes_action", "delayed_close_timeout", "access_log_options"]) {
    delete manager[key];
  }
}

/** What Istio makes of mesh-config.yaml, service-entries.yaml and authorization-policy.yaml, then envoy-filter.yaml. */
function asIstio(bootstrap: Bootstrap): void {
  const parts = partsOf(bootstrap);
  const { listener, manager } = parts;
  plain(parts);
  const { meshConfig } = parse(readFileSync(`${EXAMPLES}/istio/mesh-config.yaml`, "utf8"));
  const provider = (name: string): Any =>
    meshConfig.extensionProviders.find((candidate: Any) => candidate.name === name);
  const hostOf = ({ service }: Any): string => service.split("/").at(-1);
  const clusterOf = (named: Any): string => `outbound|${named.port}||${hostOf(named)}`;
  const check = provider("sallyport").envoyExtAuthzGrpc;
  const outcomes = provider("sallyport-outcomes").envoyHttpAls;
  rename(bootstrap, { sallyport_check: clusterOf(check), sallyport_streams: clusterOf(outcomes) });
  const router = manager.http_filters.at(-1);
  manager.http_filters = [
    {
      name: "envoy.filters.http.ext_authz",
      typed_config: {
        "@type": EXT_AUTHZ,
        transport_api_version: "V3",
        failure_mode_allow: check.failOpen,
        status_on_error: { code: Number(check.statusOnError) },
        grpc_service: { envoy_grpc: { cluster_name: clusterOf(check), authority: hostOf(check) }, timeout: PATIENT },
      },
    },
    router,
  ];
  manager.access_log = [
    jsonLog(provider("sallyport-json").envoyFileAccessLog.logFormat.labels),
    grpcLog(
      clusterOf(outcomes),
      hostOf(outcomes),
      outcomes.additionalResponseHeadersToLog,
      outcomes.additionalResponseTrailersToLog,
    ),
  ];
  for (const { applyTo, match, patch } of one(example("istio/envoy-filter.yaml"), "EnvoyFilter").spec.configPatches) {
    const { operation, value } = patch;
    if (applyTo === "LISTENER_FILTER") {
      const index = listener.listener_filters.findIndex(({ name }: Any) => name === match.listener.listenerFilter);
      listener.listener_filters[index] = merge(listener.listener_filters[index], value);
    } else if (applyTo === "NETWORK_FILTER") {
      t.equal(match.listener.filterChain.filter.name, HCM);
      Object.assign(manager, merge(manager, value.typed_config));
    } else {
      const wanted = match.listener.filterChain.filter.subFilter?.name;
      const filters: Any[] = manager.http_filters;
      const index = filters.findIndex(({ name }) => name === wanted);
      if (wanted !== undefined && index < 0) throw new Error(`no filter ${wanted}`);
      if (operation === "INSERT_FIRST") filters.unshift(value);
      else if (operation === "INSERT_BEFORE") filters.splice(index, 0, value);
      else if (operation === "INSERT_AFTER") filters.splice(index + 1, 0, value);
      else if (operation === "MERGE") filters[index] = merge(filters[index], value);
      else throw new Error(`no operation ${operation}`);
    }
  }
}

/** What Envoy Gateway makes of the example's objects; in the order in which its translator puts them. */
function asEnvoyGateway(bootstrap: Bootstrap): void {
  const parts = partsOf(bootstrap);
  const { listener, manager, route } = parts;
  plain(parts);
  const file = (name: string) => example(`envoy-gateway/${name}.yaml`);
  const security = one(file("security-policy"), "SecurityPolicy");
  const { spec: clients } = one(file("client-traffic-policy"), "ClientTrafficPolicy");
  const { spec: proxy } = one(file("envoy-proxy"), "EnvoyProxy");
  const { spec: patches } = one(file("envoy-patch-policy"), "EnvoyPatchPolicy");
  const { spec: extension } = one(file("envoy-extension-policy"), "EnvoyExtensionPolicy");
  for (const print of clients.tls.fingerprints) {
    listener.listener_filters[0].typed_config[`enable_${print.toLowerCase()}_fingerprinting`] = true;
  }
  manager.path_with_escaped_slashes_action = { RejectRequest: "REJECT_REQUEST" }[
    clients.path.escapedSlashesAction as string
  ];
  const { set, remove } = clients.headers.earlyRequestHeaders;
  manager.early_header_mutation_extensions = [
    {
      name: "envoy.http.early_header_mutation.header_mutation",
      typed_config: {
        "@type": `${TYPE}.http.early_header_mutation.header_mutation.v3.HeaderMutation`,
        mutations: [
          ...set.map(({ name: key, value }: Any) => ({
            append: { append_action: "OVERWRITE_IF_EXISTS_OR_ADD", header: { key, value } },
          })),
          ...remove.map((name: string) => ({ remove: name })),
        ],
      },
    },
  ];
  const name = `envoy.filters.http.ext_authz/securitypolicy/${security.metadata.namespace}/${security.metadata.name}`;
  const authz: Any = {
    name,
    disabled: true,
    typed_config: {
      "@type": EXT_AUTHZ,
      transport_api_version: "V3",
      failure_mode_allow: security.spec.extAuth.failOpen,
      status_on_error: { code: security.spec.extAuth.statusOnError },
      grpc_service: { envoy_grpc: { cluster_name: "sallyport_check" }, timeout: PATIENT },
    },
  };
  route.typed_per_filter_config = { [name]: { "@type": `${EXT_AUTHZ}PerRoute`, check_settings: {} } };
  const lua = {
    name: "envoy.filters.http.lua/envoyextensionpolicy/shop/sallyport/lua/0",
    typed_config: {
      "@type": `${TYPE}.filters.http.lua.v3.Lua`,
      default_source_code: { inline_string: extension.lua[0].inline },
    },
  };
  t.ok(
    proxy.filterOrder.some(
      ({ name, before }: Any) => name === "envoy.filters.http.lua" && before === "envoy.filters.http.ext_authz",
    ),
  );
  manager.http_filters = [lua, authz, manager.http_filters.at(-1)];
  for (const { operation } of patches.jsonPatches) {
    t.equal(operation.jsonPath, `..http_filters[?(@.name=='${name}')].typed_config`);
    authz.typed_config[operation.path.slice(1)] = operation.value;
  }
  const [file_, als] = proxy.telemetry.accessLog.settings;
  const { http } = als.sinks[0].als;
  manager.access_log = [
    jsonLog(file_.format.json),
    grpcLog("sallyport_streams", "sallyport-streams.shop", http.responseHeaders, http.responseTrailers),
  ];
  const { spec: routes } = one(file("gateway"), "HTTPRoute");
  route.request_headers_to_remove = routes.rules[0].filters[0].requestHeaderModifier.remove;
}

const SPEC = {
  identity: { trustedSpiffe: ["spiffe://shop.example/**"] },
  rules: [{ name: "closed", match: { routes: ["/closed/**"] }, decision: "deny" }],
};

for (const { name, change } of [
  { name: "istio", change: asIstio },
  { name: "envoy-gateway", change: asEnvoyGateway },
]) {
  t.test(`${name}: a real Envoy, configured as the example would have it, asks and obeys`, async (t) => {
    const guarded = await startGuarded({ config: "envoy/http-mtls.yaml", service: startOrders, spec: SPEC, change });
    t.teardown(() => guarded.stop());
    const web = await guarded.caller("web");
    const entryOf = async (path: string) => (await guarded.entries(1, (entry) => entry.path === path)).at(-1);

    const allowed = await fetchOnce(web, {
      path: "/orders/1",
      headers: { "x-sallyport-ja4": "forged", "x-sallyport-source": "192.0.2.1", "x-sallyport-score": "0" },
    });
    t.equal(allowed.status, 200);
    const { headers } = guarded.service.received.at(-1)!;
    t.match(headers, { "x-sallyport-decision": "allow", "x-sallyport-principal": "spiffe://shop.example/web" });
    for (const input of ["ja3", "ja4", "tls", "connection", "peer-fp", "source"]) {
      t.equal(headers[`x-sallyport-${input}`], undefined, `the service does not get ${input}`);
    }
    t.match(await entryOf("/orders/1"), {
      code: 200,
      decision: "allow",
      principal: "spiffe://shop.example/web",
      peer: "spiffe://shop.example/web",
      ja4: /^t13/,
      decision_id: headers["x-sallyport-decision-id"],
      mode: "enforce",
    });

    t.equal((await fetchOnce(web, { path: "/closed/1" })).status, 403);
    t.match(await entryOf("/closed/1"), { code: 403, decision: "deny", details: "ext_authz_denied" });
    t.equal((await fetchOnce(web, { path: "/orders/%2e%2e%2fclosed/1" })).status, 400, "escaped slashes are refused");

    const client = nodeClient(await guarded.caller("victim"));
    t.teardown(() => client.close());
    for (const path of ["/orders/2", "/orders/2"]) t.equal((await client.send({ path })).status, 200);
    t.equal(client.connections(), 1, "kept alive");
    await runCommand([
      ...["lock", "--principal", "spiffe://shop.example/victim", "--reason", "test", "--for", "5m"],
      ...["--api", `unix:${guarded.sidecar.apiSocket}`],
    ]);
    t.equal((await client.send({ path: "/orders/3" })).status, 403);
    t.match(await entryOf("/orders/3"), { decision: "terminate" });
    t.equal((await client.send({ path: "/orders/3" })).status, 403);
    t.equal(client.connections(), 2, "terminate ended the connection, not only the request");

    await eventually(async () => ((await metric(guarded.sidecar, "sallyport_outcomes_total")) > 0 ? true : undefined));
    t.pass("Sallyport hears how requests end");
  });
}
