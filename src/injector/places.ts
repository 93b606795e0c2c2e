/** Names and paths that the injector gives to what it adds; public, for dashboards, policies and Envoys refer to them. */

export const SALLYPORT_CONTAINER = "sallyport";
export const ENVOY_CONTAINER = "sallyport-envoy";

/** Every volume: the sockets are Envoy's way to Sallyport, the others are mounted by one container each. */
export const VOLUMES = {
  sockets: "sallyport-sockets",
  state: "sallyport-state",
  policy: "sallyport-policy",
  control: "sallyport-control",
  tls: "sallyport-tls",
  sds: "sallyport-sds",
  noToken: "sallyport-no-token",
} as const;

export const SOCKETS_FOLDER = "/run/sallyport";
export const CHECK_SOCKET = `${SOCKETS_FOLDER}/check.sock`;
export const STREAMS_SOCKET = `${SOCKETS_FOLDER}/streams.sock`;
export const API_SOCKET = `${SOCKETS_FOLDER}/api.sock`;
export const STATE_FOLDER = "/var/lib/sallyport";
export const POLICY_FOLDER = "/etc/sallyport/policy";
export const CONTROL_FOLDER = "/etc/sallyport/control";
export const TLS_FOLDER = "/etc/sallyport/tls";
export const SDS_FOLDER = "/etc/sallyport/sds";

/**
 * Where the API server mounts the token of the pod's service account into every container, unless something is mounted
 * there (k8s.io/kubernetes/plugin/pkg/admission/serviceaccount).
 */
export const API_TOKEN_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount";

/** In CONTROL_FOLDER. */
export const CONTROL_TOKEN = "token";
export const CONTROL_CA = "ca.crt";
export const CONTROL_KEYS = "bundle.keys";

/** In SDS_FOLDER. */
export const SDS_CERTIFICATE = "certificate.yaml";
export const SDS_CLIENTS = "clients.yaml";

/** Names of ports (at most 15 characters): metrics of Sallyport and of Envoy, and where callers arrive. */
export const HEALTH_PORT_NAME = "sallyport";
export const ENVOY_PORT_NAME = "sallyport-envoy";
export const INBOUND_PORT_NAME = "sallyport-in";

/** Annotations and labels of ours begin with it. */
export const PREFIX = "sallyport.dev/";

/** Annotations that carry files into the pod: a pod then needs no object of its namespace for them. */
export const FILE_ANNOTATIONS = {
  controlCa: `${PREFIX}file-control-ca`,
  bundleKeys: `${PREFIX}file-bundle-keys`,
  sdsCertificate: `${PREFIX}file-sds-certificate`,
  sdsClients: `${PREFIX}file-sds-clients`,
} as const;

export const STATUS_ANNOTATION = `${PREFIX}status`;
