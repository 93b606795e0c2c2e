/** The configuration of an injected Envoy: the shipped one, on the pod's ports and Sallyport's sockets. */

import type { InjectorConfig, TlsConfig } from "./config.ts";
import type { Json, JsonObject } from "./json.ts";
import { CHECK_SOCKET, SDS_CERTIFICATE, SDS_CLIENTS, SDS_FOLDER, STREAMS_SOCKET, TLS_FOLDER } from "./places.ts";
import { SHIPPED_ENVOY_JSON } from "./shipped-envoy.ts";

/** What an application is reached by. */
export interface App {
  readonly port: number;
  readonly protocol: "http1" | "http2";
}

interface Filter {
  name: string;
  typed_config: Record<string, Json>;
}

/** The parts of the shipped configuration that are changed here. */
interface Shipped {
  node?: Json;
  admin: Json;
  static_resources: {
    listeners: [Listener, ...Json[]];
    clusters: Cluster[];
  };
}

interface Listener {
  name: string;
  address: Json;
  traffic_direction?: string;
  listener_filters?: Json;
  filter_chains: [{ transport_socket?: { typed_config: Record<string, Json> }; filters: [Filter] }];
}

interface Cluster {
  name: string;
  [field: string]: Json;
}

/** Header values that only a TLS connection has. */
const TLS_INPUTS = ["x-sallyport-ja3", "x-sallyport-ja4", "x-sallyport-tls", "x-sallyport-peer-fp"];
/** Fields of the access log that only a TLS connection has. */
const TLS_LOGGED = ["ja3", "ja4", "peer"];
const ADMIN_CLUSTER = "admin";

/** What the script that drains asks of the admin interface. */
export const DRAIN_TARGET = "/drain_listeners?graceful&inboundonly";
export const ACTIVE_TARGET = "/stats?filter=http.callers.downstream_rq_active";

/** All that the admin interface answers; queries belong to the path here. */
const ADMIN_PATHS: Json = [
  { exact: "/ready" },
  { prefix: "/stats/prometheus" },
  { exact: ACTIVE_TARGET },
  { exact: DRAIN_TARGET },
];

/** Envoy's bootstrap (envoy.config.bootstrap.v3.Bootstrap); `node` comes by flags. */
export function bootstrapOf(config: InjectorConfig, app: App): JsonObject {
  const { envoy, listenAddress } = config;
  const shipped = JSON.parse(SHIPPED_ENVOY_JSON) as Shipped; // our own text, whose shape its test holds
  delete shipped.node;
  // Loopback is the whole pod's, the application's too: of what could stop or open Envoy nothing is served.
  shipped.admin = { address: socketAddress("127.0.0.1", envoy.adminPort), allow_paths: ADMIN_PATHS };
  const [callers] = shipped.static_resources.listeners;
  callers.address = socketAddress(listenAddress, envoy.inboundPort);
  callers.traffic_direction = "INBOUND"; // what `drain_listeners?inboundonly` ends
  const [chain] = callers.filter_chains;
  const [manager] = chain.filters;
  if (envoy.tls === undefined) withoutTls(callers, manager);
  else chain.transport_socket!.typed_config.common_tls_context = tlsContext(envoy.tls);
  const filters = manager.typed_config.http_filters as unknown as Filter[];
  filters.find(({ name }) => name === "envoy.filters.http.ext_authz")!.typed_config.failure_mode_allow =
    envoy.failureMode === "allow";
  shipped.static_resources.listeners.push(healthListener(config));
  shipped.static_resources.clusters = [
    ...shipped.static_resources.clusters.map((cluster) => placed(cluster, app)),
    cluster(ADMIN_CLUSTER, socketAddress("127.0.0.1", envoy.adminPort)),
  ];
  return shipped as unknown as JsonObject;
}

function withoutTls(callers: Listener, manager: Filter): void {
  delete callers.listener_filters;
  delete callers.filter_chains[0].transport_socket;
  const { typed_config } = manager;
  const filters = typed_config.http_filters as unknown as Filter[];
  const inputs = filters.find(({ name }) => name === "sallyport.inputs")!.typed_config.mutations as unknown as {
    request_mutations: { append?: { header: { key: string } } }[];
  };
  inputs.request_mutations = inputs.request_mutations.filter(
    ({ append }) => append === undefined || !TLS_INPUTS.includes(append.header.key),
  );
  const check = filters.find(({ name }) => name === "envoy.filters.http.ext_authz")!.typed_config;
  delete check.include_peer_certificate;
  delete check.include_tls_session;
  const [stdout, grpc] = typed_config.access_log as unknown as [Filter, Filter];
  const { json_format } = stdout.typed_config.log_format as unknown as { json_format: Record<string, string> };
  for (const name of TLS_LOGGED) delete json_format[name];
  delete (grpc.typed_config.common_config as Record<string, Json>).custom_tags;
}

/** Certificates come by files that name files, for Envoy reads such anew when the kubelet renews the Secret. */
function tlsContext({ clientPrefix }: TlsConfig): Json {
  const names =
    clientPrefix === ""
      ? {}
      : { match_typed_subject_alt_names: [{ san_type: "URI", matcher: { prefix: clientPrefix } }] };
  return {
    alpn_protocols: ["h2", "http/1.1"],
    tls_certificate_sds_secret_configs: [sdsConfig("certificate", SDS_CERTIFICATE)],
    combined_validation_context: {
      default_validation_context: names,
      validation_context_sds_secret_config: sdsConfig("clients", SDS_CLIENTS),
    },
  };
}

function sdsConfig(name: string, file: string): Json {
  const path = `${SDS_FOLDER}/${file}`;
  return {
    name,
    sds_config: { path_config_source: { path, watched_directory: { path: SDS_FOLDER } }, resource_api_version: "V3" },
  };
}

/** The files that `tlsContext` names (envoy.service.discovery.v3.DiscoveryResponse), by their own names. */
export function sdsFiles({ certificate, key, clientCa }: TlsConfig): Readonly<Record<string, string>> {
  const resource = (name: string, secret: Json): string =>
    JSON.stringify({
      resources: [
        {
          "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
          name,
          ...(secret as object),
        },
      ],
    });
  const file = (name: string): Json => ({ filename: `${TLS_FOLDER}/${name}` });
  const watched_directory = { path: TLS_FOLDER };
  return {
    [SDS_CERTIFICATE]: resource("certificate", {
      tls_certificate: { certificate_chain: file(certificate), private_key: file(key), watched_directory },
    }),
    [SDS_CLIENTS]: resource("clients", { validation_context: { trusted_ca: file(clientCa), watched_directory } }),
  };
}

/** Two pages of the admin interface, which itself stays on loopback: it can stop Envoy. */
function healthListener({ listenAddress, envoy }: InjectorConfig): Json {
  const page = (path: string): Json => ({ match: { path }, route: { cluster: ADMIN_CLUSTER } });
  return {
    name: "health",
    address: socketAddress(listenAddress, envoy.healthPort),
    filter_chains: [
      {
        filters: [
          {
            name: "envoy.filters.network.http_connection_manager",
            typed_config: {
              "@type":
                "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
              stat_prefix: "health",
              request_headers_timeout: "10s",
              http_filters: [
                {
                  name: "envoy.filters.http.router",
                  typed_config: { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
                },
              ],
              route_config: {
                virtual_hosts: [
                  { name: "health", domains: ["*"], routes: [page("/ready"), page("/stats/prometheus")] },
                ],
              },
            },
          },
        ],
      },
    ],
  };
}

function placed(shipped: Cluster, app: App): Cluster {
  switch (shipped.name) {
    case "service":
      return {
        ...shipped,
        ...assignment("service", socketAddress("127.0.0.1", app.port)),
        ...(app.protocol === "http1" ? {} : { typed_extension_protocol_options: HTTP2 }),
      };
    case "sallyport_check":
      return {
        ...shipped,
        ...assignment(shipped.name, { pipe: { path: CHECK_SOCKET } }),
        health_checks: [HEALTH_CHECK],
      };
    case "sallyport_streams":
      return { ...shipped, ...assignment(shipped.name, { pipe: { path: STREAMS_SOCKET } }) };
    default:
      return shipped;
  }
}

const HTTP2 = {
  "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
    explicit_http_config: { http2_protocol_options: { max_concurrent_streams: 1024 } },
  },
};

/**
 * Envoy takes no connection before the first answer, and its own connection tells Sallyport for as long as it lives that
 * it may still ask (`drain-delay`).
 */
const HEALTH_CHECK = {
  timeout: "1s",
  interval: "5s",
  no_traffic_interval: "5s",
  unhealthy_threshold: 3,
  healthy_threshold: 1,
  grpc_health_check: {},
};

function cluster(name: string, address: Json): Cluster {
  return { name, type: "STATIC", connect_timeout: "1s", ...assignment(name, address) };
}

function assignment(cluster_name: string, address: Json): { readonly load_assignment: Json } {
  return { load_assignment: { cluster_name, endpoints: [{ lb_endpoints: [{ endpoint: { address } }] }] } };
}

/** `::` takes IPv4 as well. */
function socketAddress(address: string, port: number): Json {
  const socket = { address, port_value: port };
  return address === "::" ? { socket_address: { ...socket, ipv4_compat: true } } : { socket_address: socket };
}
