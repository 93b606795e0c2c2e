/** Tests how the watch of a cluster is set. */

import t from "tap";
import { readControlConfig } from "../../../src/control/config.ts";

function read(flags: Readonly<Record<string, string>>, switches: readonly string[] = ["kubernetes"], text = "") {
  return readControlConfig({
    flags: { tokens: "t", "bundle-keys": "k", ...flags },
    switches: new Set(switches),
    environment: {},
    file: text === "" ? undefined : { name: "control.yaml", text },
  });
}

const refused: readonly { name: string; flags: Record<string, string>; switches?: string[]; says: RegExp[] }[] = [
  {
    name: "no pod and no address",
    flags: {},
    says: [/^kubernetes-api: expected an address, since this is no pod/, /^trust-domain: expected/],
  },
  {
    name: "a token that would cross the network in the open",
    flags: { "kubernetes-api": "http://192.0.2.1:8080", "trust-domain": "td" },
    says: [/^kubernetes-api: expected https:\/\/HOST:PORT, or http:\/\/ on loopback, got "http:\/\/192/],
  },
  {
    name: "an address with more in it",
    flags: { "kubernetes-api": "https://user@192.0.2.1/api", "trust-domain": "td" },
    says: [/^kubernetes-api: expected https/],
  },
  {
    name: "names that are none",
    flags: {
      "kubernetes-api": "https://192.0.2.1",
      "trust-domain": "td",
      "kubernetes-namespaces": "a, B_",
      "kubernetes-labels": "x y",
    },
    says: [/"B_" is no namespace's name/, /"x y" is no label's name/],
  },
  {
    name: "a principal that does not tell service accounts apart",
    flags: { "kubernetes-api": "https://192.0.2.1", "kubernetes-principal": "spiffe://td/{serviceAccount}/{pod}" },
    says: [/^kubernetes-principal: expected a SPIFFE ID with \{namespace\}/],
  },
  {
    name: "a watch that is off",
    flags: { "kubernetes-namespaces": "shop", "kubernetes-pods-max": "5" },
    switches: [],
    says: [/^kubernetes-namespaces: needs kubernetes/, /^kubernetes-pods-max: needs kubernetes/],
  },
];
for (const { name, flags, switches, says } of refused) {
  t.test(`refused with its reason: ${name}`, async (t) => {
    const found = read(flags, switches);
    t.equal(found.ok, false);
    t.match(found, { problems: says });
  });
}

t.test("off unless it is asked for", async (t) => {
  t.match(read({}, []), { ok: true, settings: { kubernetes: undefined } });
});

t.test("the file sets it as flags do", async (t) => {
  const text = [
    "kubernetes: true",
    "kubernetes-api: http://127.0.0.1:8001",
    "kubernetes-namespaces: shop,bank,shop",
    "kubernetes-labels: app.kubernetes.io/name, tier",
    "kubernetes-principal: spiffe://td/{namespace}/{serviceAccount}",
    "kubernetes-issuer: https://cluster.example",
    "kubernetes-pods-max: 500",
  ].join("\n");
  t.match(read({}, [], text), {
    ok: true,
    settings: {
      kubernetes: {
        api: "http://127.0.0.1:8001",
        namespaces: ["shop", "bank"],
        tokenFile: undefined,
        caFile: undefined,
        naming: {
          principal: "spiffe://td/{namespace}/{serviceAccount}",
          issuer: "https://cluster.example",
          labels: ["app.kubernetes.io/name", "tier"],
        },
        podsMax: 500,
      },
    },
  });
});

t.test("a pod's own way to the API is taken from its environment", async (t) => {
  const read = readControlConfig({
    flags: { tokens: "t", "bundle-keys": "k", "trust-domain": "td" },
    switches: new Set(["kubernetes"]),
    environment: { KUBERNETES_SERVICE_HOST: "fd00::1", KUBERNETES_SERVICE_PORT: "6443" },
    file: undefined,
  });
  t.match(read, {
    ok: true,
    settings: {
      kubernetes: {
        api: "https://[fd00::1]:6443",
        tokenFile: "/var/run/secrets/kubernetes.io/serviceaccount/token",
        caFile: "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
        naming: { principal: "spiffe://{trustDomain}/ns/{namespace}/sa/{serviceAccount}", trustDomain: "td" },
        podsMax: 10_000,
      },
    },
  });
});
