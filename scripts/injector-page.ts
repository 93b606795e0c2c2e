/** Writes docs/injector.md from the injector's own tables of keys and annotations. */

import { ANNOTATIONS } from "../src/injector/annotations.ts";
import { CONFIG_FIELDS, type Field, type Members } from "../src/injector/fields.ts";
import { AMBIENT, ISTIO, LINKERD } from "../src/injector/neighbours.ts";
import { MANAGED_SETTINGS } from "../src/injector/serve-settings.ts";
import { WORKLOAD_KINDS } from "../src/injector/workloads.ts";

/** The page, without its marks of generation. */
export function injectorPage(generated: string): string {
  return `${[...intro(generated), ...annotationTable(), ...configTable(), ...ENDING].join("\n")}\n`;
}

function intro(generated: string): readonly string[] {
  return [
    "# What is injected into pods",
    "",
    generated,
    "",
    "`sallyport webhook` adds Sallyport to pods as they are created, `sallyport inject` to manifests before they are applied;",
    "both do the same. This page says what is added, to which pods, and what can be chosen.",
    "",
    "## What is added",
    "",
    "| what | why |",
    "| --- | --- |",
    "| container `sallyport` | answers Envoy on Unix sockets; health and metrics on port 8282 (`sallyport`) |",
    "| container `sallyport-envoy` (`envoy.mode: sidecar`) | takes callers on port 15006 (`sallyport-in`), asks Sallyport, and passes them to the application on loopback; `/ready` and `/stats/prometheus` on port 15021 (`sallyport-envoy`); its JSON access log, with every decision, is its standard output |",
    "| volume `sallyport-sockets` | in memory; holds `check.sock`, `streams.sock` and `api.sock` at `/run/sallyport` |",
    "| volume `sallyport-state` | an emptyDir at `/var/lib/sallyport`: what was learned, over restarts of the container |",
    "| volumes `sallyport-policy`, `-control`, `-tls`, `-sds` | where policy, the control plane or TLS need them |",
    "| volume `sallyport-no-token` | empty: it keeps the API server from mounting the token of the pod's service account into our containers |",
    "| annotations | `sallyport.dev/status` says what was done; `sallyport.dev/file-*` are files that travel with the pod |",
    "",
    "Nothing has to exist in the pod's namespace, unless you name a ConfigMap or Secret yourself. Envoy's configuration is an",
    "argument of its container: it is [envoy/http-mtls.yaml](../envoy/http-mtls.yaml) with the pod's ports and sockets, and",
    "cannot change while the pod lives.",
    "",
    "Whoever can patch pods can still change the annotations and images of a running one: keep that right to few.",
    "",
    "Both containers keep to the Restricted Pod Security Standard by themselves: not root (65532 and 65533), no capabilities, no way to",
    "gain privileges, a root file system that is only read, the runtime's seccomp profile. The pod's own `securityContext`",
    "(`runAsUser`, `fsGroup`, `runAsNonRoot` …) stays as it is and need not suit ours. On OpenShift, which chooses users",
    "itself, set `runAsUser: 0`: it leaves `runAsUser` and `runAsGroup` out.",
    "",
    "The sockets are open to every user (mode 0666), so that a proxy of any user can ask: Istio's runs as 1337. Only containers",
    "that mount the volume see them, and the application does not; all but Sallyport mount it read-only, which lets them connect",
    "and not put a socket of their own there. The API's socket is open to Sallyport's own user alone:",
    "`kubectl exec POD -c sallyport -- sallyport tap --api unix:/run/sallyport/api.sock`.",
    "",
    "## Order",
    "",
    "On clusters that have native sidecars (Kubernetes 1.29 and later) both are init containers with `restartPolicy: Always`,",
    "before all others. So Sallyport answers before Envoy starts, Envoy takes no connection before Sallyport has answered it,",
    "and the application starts when both are there. When the pod ends the application ends first, with all the time that it",
    "had (`terminationGracePeriodSeconds` grows by what ours need); then Envoy, once no request is open; then Sallyport, once",
    "the outcomes of the last requests have come in. Jobs end when their own containers do.",
    "",
    "Classic containers (`nativeSidecars: never`, older clusters) come first in `containers`. Envoy's `postStart` holds the",
    "application back until Sallyport is ready. At the end all get their signal at once: Envoy's `preStop` waits until the",
    "application has stopped listening and no request is open, and Sallyport answers on (`drain-delay`) until Envoy is gone.",
    "A pod that is meant to end (`restartPolicy: Never` or `OnFailure`) is refused: a classic sidecar would keep it running.",
    "",
    "Both scripts need Bash and the usual small programs in Envoy's image. `envoyproxy/envoy` has them, its `distroless`",
    "variants do not: set `envoy.drain: sleep` there (Kubernetes 1.30 and later).",
    "",
    "In both cases an application that answers on for a few seconds after SIGTERM (a `preStop` that sleeps) loses nothing",
    "while its Services forget the pod: Envoy stays for as long as the application listens.",
    "",
    "## Which pods",
    "",
    `Pods of every kind: ${Object.keys(WORKLOAD_KINDS).join(", ")}, and \`List\`s of them. Pods of other kinds`,
    "(Argo Rollouts, Knative …) are injected by the webhook, which sees the pods themselves; `sallyport inject` leaves these kinds",
    "as they are and says so.",
    "",
    "Left as they are:",
    "",
    '- pods with the label or annotation `sallyport.dev/inject: "false"`, unless `overrides` forbids it;',
    "- pods that are injected already, by whom and whatever configuration, as the annotation `sallyport.dev/status` notes;",
    "- pods of `kube-system`, `kube-public` and `kube-node-lease`, and static pods;",
    "- with an Envoy as sidecar: pods that run to their end and declare no port, such as most Jobs. Nothing calls them.",
    "",
    "Refused, with the reason, since they would run unguarded or not at all. The webhook denies their creation; `sallyport",
    "inject` writes nothing and ends with status 1:",
    "",
    "- `hostNetwork` (Envoy's ports would be the node's, and callers get past it), `hostPID`, Windows;",
    "- containers, volumes or ports that clash with ours;",
    "- with an Envoy as sidecar: pods that declare no port or several, unless `sallyport.dev/app-port` says which;",
    "- `join` where the container to join is not there (of Istio's, which may still come, there is a warning only); Linkerd's",
    "  proxy, which is no Envoy;",
    "- annotations under `sallyport.dev/` that are unknown or have a wrong value;",
    "- pods that are meant to end, with classic sidecars.",
    "",
    "## What pods may choose",
    "",
    "Whoever creates pods chooses by their annotations, unless the configuration says otherwise. Some choices leave a pod less",
    "guarded, or not at all: `inject` (out altogether, by the label as well), `mode` (`observe` enforces nothing), `policy` (a",
    "ConfigMap of the pod's own namespace, even where policy is signed and comes from the control plane), `envoy` (`none`:",
    "nothing asks), `app-port` (another of its ports is guarded). `overrides` in the configuration lists what is left to pods:",
    "",
    "```yaml",
    "overrides: [app-port, app-protocol, redirect, cpu-request, cpu-limit, memory-request, memory-limit, log-level]",
    "```",
    "",
    "Pods that ask for anything else are then refused, as are pods that opt out, and the message says why. Values of the configuration",
    "hold for all pods of the cluster; `sallyport inject` keeps to them where it is given the same file.",
    "",
    "What is injected guards an application against its callers, not against its own author: a pod may listen on ports of which",
    "nobody is told, run to its end with no port declared, or bring a container of its own named `sallyport` and a note of",
    "ours copied from another pod. (A note that does not name that container, or names any that are not ours, is refused.) Where authors are",
    "not trusted so far, have the API server hold finished pods to the image that you injected:",
    "",
    "```yaml",
    "apiVersion: admissionregistration.k8s.io/v1",
    "kind: ValidatingAdmissionPolicy",
    "metadata: {name: sallyport-sidecar}",
    "spec:",
    "  failurePolicy: Fail",
    "  matchConstraints:",
    "    resourceRules:",
    '    - {apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [pods]}',
    "  validations:",
    "  - expression: >-",
    "      has(object.spec.initContainers) && object.spec.initContainers.exists(c, c.name == 'sallyport' &&",
    "      c.image.startsWith('ghcr.io/sallyport/sallyport:') && !has(c.command) && c.args[0] == 'serve' &&",
    "      !c.args.exists(a, a == '--mode=observe'))",
    "    message: pods of this namespace run beside Sallyport, and by its own image",
    "---",
    "apiVersion: admissionregistration.k8s.io/v1",
    "kind: ValidatingAdmissionPolicyBinding",
    "metadata: {name: sallyport-sidecar}",
    "spec:",
    "  policyName: sallyport-sidecar",
    "  validationActions: [Deny]",
    "  matchResources:",
    "    namespaceSelector: {matchLabels: {sallyport.dev/injection: enabled}}",
    "```",
    "",
    "(With classic sidecars it stands in `containers`; with Jobs that nothing calls, leave those out by a matchCondition.)",
    "",
    "## Envoy: sidecar, join or none",
    "",
    "**`sidecar`.** Envoy speaks HTTP/1.1, HTTP/2 and gRPC; leave pods out that serve anything else. It listens on `inboundPort`;",
    "bring callers there in one of three ways:",
    "",
    "1. Point the Service to it: `targetPort: 15006`. (Its name `sallyport-in` does too, but Kubernetes before 1.32 does not find",
    "   the names of native sidecars' ports.)",
    "2. `redirect: ports`, where the Service names its port (`targetPort: http`): the pod then declares Envoy's port under that",
    "   name, and probes that spoke of it get the application's number. The Service need not change.",
    "3. By iptables, below.",
    "",
    "With 1 and 2 the application's own port can still be reached by whoever knows the pod's address. Let the application",
    "listen on 127.0.0.1 (kubelets then have to probe it by `exec`), or close the port by a NetworkPolicy:",
    "",
    "```yaml",
    "apiVersion: networking.k8s.io/v1",
    "kind: NetworkPolicy",
    "metadata: {name: orders-through-envoy}",
    "spec:",
    "  podSelector: {matchLabels: {app: orders}}",
    "  policyTypes: [Ingress]",
    "  ingress:",
    "  - ports: [{port: 15006}, {port: 8282}, {port: 15021}]",
    "```",
    "",
    "Envoy's admin interface listens on loopback, which the application shares: it answers `/ready`, metrics, and what its own",
    "script asks when the pod ends, and refuses all else (`/quitquitquit`, `/config_dump` …).",
    "",
    "**`join`.** The pod has an Envoy, usually Istio's: its container gets the sockets mounted, and its own configuration asks",
    "at `unix:/run/sallyport/check.sock`. Where Istio injects the pod later, the annotation `sidecar.istio.io/userVolumeMount`",
    "tells it to mount the volume.",
    "",
    "**`none`.** Sallyport alone, for containers that you point to its sockets yourself.",
    "",
    "### Redirecting by iptables",
    "",
    "Not done by the injector, for it needs a privilege that the Restricted and Baseline standards refuse. In namespaces that",
    "allow it, an init container of your own takes the application's port for Envoy, for whatever comes from outside the pod.",
    "The node's own address is left out, so that the kubelet's probes still reach the application:",
    "",
    "```yaml",
    "initContainers:",
    "- name: redirect",
    "  image: YOUR-IMAGE-WITH-IPTABLES",
    '  command: [iptables, -t, nat, -A, PREROUTING, -p, tcp, --dport, "8080", "!", -s, $(HOST_IP), -j, REDIRECT, --to-ports, "15006"]',
    "  env: [{name: HOST_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}]",
    "  securityContext: {runAsUser: 0, runAsNonRoot: false, capabilities: {drop: [ALL], add: [NET_ADMIN, NET_RAW]}}",
    "```",
    "",
    "Clusters with IPv6 need the same with `ip6tables`. Envoy reaches the application over loopback, which no rule touches.",
    "",
    "## TLS",
    "",
    "With `envoy.tls` callers have to show a certificate of `clientCa`, and are known by its URI name. The Secret is of the form",
    "that cert-manager writes (`tls.crt`, `tls.key`, `ca.crt`); when it is renewed, Envoy serves the new certificate without a",
    "restart and without losing connections. Without `envoy.tls` Envoy takes plain HTTP, and callers are known by what their",
    "tokens and keys say: TLS fingerprints and certificates are then no evidence.",
    "",
    "## Policy from a ConfigMap or Secret",
    "",
    "It has to be in the pod's namespace: without it pods wait in `ContainerCreating`, and their events name what is missing. A",
    "change takes effect without a restart, once the kubelet has brought it (up to a minute or two); one that is wrong is",
    "reported, and the last good policy stays.",
    "",
    "## Policy from the control plane",
    "",
    "`policy: {control: true}` follows the control plane in `control`. Its certificates and the keys that policy must be signed",
    "by travel in the pod's annotations; the service-account token is made for `tokenAudience` alone and renewed by the kubelet.",
    "A pod whose policy has not come yet is started but not ready: it gets no traffic, and whatever has to start after it (a",
    "mesh's proxy, which the way to the control plane may lead through) can.",
    "",
    "## Beside a mesh",
    "",
    `Ports of the meshes are never ours: ${[ISTIO, AMBIENT, LINKERD].map(({ name, ports }) => `${name} ${ports.join(", ")}`).join("; ")}.`,
    "So with Istio, use `join`, or choose other ports for `sidecar`. Our health ports are put on the mesh's list of ports that it",
    `leaves alone (\`${ISTIO.skipInbound}\`, \`${LINKERD.skipInbound}\`), for kubelets and Prometheus have no`,
    "certificate of the mesh. `sallyport inject` cannot see that a namespace's label will have Istio inject the pod later: use",
    "`join` in such namespaces. Nor can it or the webhook see that a namespace's label puts a pod into the ambient mesh, whose",
    "proxy listens on 15006 in every pod: choose another `inboundPort` there. A mesh that was injected before reads that list too late: the injector then warns, and the pod's",
    "template has to say it.",
    "",
    "## `sallyport inject` and `uninject`",
    "",
    "```sh",
    "sallyport inject -f orders.yaml | kubectl apply -f -",
    "kustomize build overlays/prod | sallyport inject --injector-config injector.yaml | kubectl apply -f -",
    "helm upgrade --install shop ./shop --post-renderer sallyport --post-renderer-args inject",
    "sallyport uninject -f injected.yaml",
    "kubectl -n shop get deployment orders -o yaml | sallyport uninject | kubectl replace -f -",
    "```",
    "",
    "Without `--injector-config` the defaults below count, and not what a webhook in the cluster injects. The webhook's own is in a",
    "ConfigMap: `kubectl -n sallyport-system get configmap sallyport-injector -o jsonpath='{.data.injector\\.yaml}'`.",
    "",
    "Documents keep their order; those that are not changed keep every character, the others their comments, quotes and form.",
    "(A document in which the change meets YAML aliases is written anew, without comments.) JSON stays JSON. A line for each",
    "object goes to standard error. Where one object is refused, nothing is written and the status is 1: a pipe to kubectl",
    "would apply what is unguarded. `uninject` takes out exactly what was added, also from what `kubectl get -o yaml` shows of",
    "pods that the webhook injected, and leaves what others added since. Give what is in the cluster back with `kubectl replace`:",
    "`kubectl apply` takes out nothing that it did not put in itself.",
    "",
    "Pods of manifests that were injected pass the webhook unchanged.",
    "",
    "## Annotations of pods",
    "",
    "In the pod's template. They win over the configuration, as far as its `overrides` leave them to pods. Unknown ones are refused with a suggestion.",
    "",
  ];
}

function annotationTable(): readonly string[] {
  return [
    "| annotation | value | meaning |",
    "| --- | --- | --- |",
    ...ANNOTATIONS.map(({ name, expected, summary }) => `| \`sallyport.dev/${name}\` | ${expected} | ${summary} |`),
    "",
  ];
}

function configTable(): readonly string[] {
  return [
    "## The configuration",
    "",
    "YAML, given to `webhook` and `inject` with `--injector-config`; the Helm chart writes it from its values. Everything wrong is",
    "reported at once, with file, line and column; unknown keys are refused with a suggestion.",
    "",
    "```yaml",
    "apiVersion: sallyport.dev/v1",
    "kind: InjectorConfig",
    'image: {repository: ghcr.io/sallyport/sallyport, tag: "0.1.0"}',
    "mode: observe",
    "policy: {configMap: {name: sallyport-policy}}",
    "envoy:",
    "  failureMode: allow",
    '  tls: {secret: orders-tls, clientPrefix: "spiffe://shop.example/"}',
    "```",
    "",
    "| key | value | default | meaning |",
    "| --- | --- | --- | --- |",
    ...rowsOf(CONFIG_FIELDS, ""),
    "",
    "Settings that `settings` refuses, since the injector makes them:",
    "",
    ...Object.entries(MANAGED_SETTINGS).map(([name, instead]) => `- \`${name}\`: ${instead}`),
    "",
  ];
}

function rowsOf(members: Members, path: string): readonly string[] {
  return Object.entries(members).flatMap(([name, field]) => {
    const at = `${path}${name}`;
    if (field.kind === "group") return [`| \`${at}\` | | | ${field.summary} |`, ...rowsOf(field.members, `${at}.`)];
    return [`| \`${at}\` | ${choicesOf(field)} | ${fallbackOf(field)} | ${field.summary} |`];
  });
}

function choicesOf(field: Exclude<Field, { readonly kind: "group" }>): string {
  switch (field.kind) {
    case "text":
      return "text";
    case "choice":
      return field.choices.map((choice) => `\`${choice}\``).join(", ");
    case "integer":
      return `${field.range[0]} to ${field.range[1]}`;
    case "true":
      return "`true`";
    case "names":
      return "list of names";
    case "annotations":
      return "list of annotations";
    case "settings":
      return "mapping";
    case "resources":
      return "`requests`, `limits`";
    case "environment":
      return "list";
  }
}

function fallbackOf(field: Exclude<Field, { readonly kind: "group" }>): string {
  switch (field.kind) {
    case "text":
    case "choice":
      return field.fallback === undefined ? "required" : field.fallback === "" ? "" : `\`${field.fallback}\``;
    case "integer":
      return field.fallback === undefined ? "" : `\`${field.fallback}\``;
    case "resources":
      return `\`${JSON.stringify(field.fallback).replaceAll('"', "").replaceAll(":", ": ").replaceAll(",", ", ")}\``;
    case "true":
    case "names":
    case "annotations":
    case "settings":
    case "environment":
      return "";
  }
}

const ENDING = [
  "## Changing what is injected",
  "",
  "`test/injector/cases` holds pods of every kind and topology, `test/injector/golden` what becomes of them. After a change,",
  "`npx tsx scripts/injector-golden.ts` renews the golden files: read their differences. After a change of",
  "`envoy/http-mtls.yaml`, `npx tsx scripts/injector-envoy.ts` comes first. `test/injector/running.test.ts` runs what is injected,",
  "with a real Envoy, from the first probe to the last signal.",
];
