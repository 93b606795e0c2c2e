/** Tests what is read of a pod, and what is left alone. */

import fc from "fast-check";
import t from "tap";
import { readPod } from "../../../src/control/workloads/pod.ts";
import { DIGEST, pod } from "./fake-api.ts";

const NAMING = {
  principal: "spiffe://{trustDomain}/ns/{namespace}/sa/{serviceAccount}",
  trustDomain: "shop.example",
  issuer: undefined,
  labels: ["app.kubernetes.io/name", "tier"],
};

const other = `sha256:${"b".repeat(64)}`;

t.test("a pod's service account, image, owner, node, chosen labels and start are told, and nothing else", async (t) => {
  const labels = { "app.kubernetes.io/name": "orders", tier: "", secret: "x" };
  t.same(readPod(pod({ name: "orders-1", ip: "10.0.0.1", labels }), NAMING), {
    uid: "uid-shop-orders-1",
    kind: {
      principals: ["spiffe://shop.example/ns/shop/sa/orders"],
      facts: {
        image_digest: DIGEST,
        "image_digest.main": DIGEST,
        "label.app.kubernetes.io/name": "orders",
        namespace: "shop",
        owner: "orders-1-owner",
        owner_kind: "ReplicaSet",
        service_account: "orders",
      },
    },
    facts: { node: "node-1", phase: "Running", pod: "orders-1", started_at: "2026-03-02T11:00:00Z" },
    addresses: ["10.0.0.1"],
    shared: false,
  });
});

t.test("service account tokens name a pod as well, where their issuer is known", async (t) => {
  const known = readPod(pod({ name: "a" }), { ...NAMING, issuer: "https://cluster.example" });
  t.same(known?.kind.principals, [
    "spiffe://shop.example/ns/shop/sa/orders",
    "https://cluster.example|system:serviceaccount:shop:orders",
  ]);
});

const images = [
  { name: "containerd", imageID: `registry.example/main@${other}`, want: other },
  { name: "an image that was loaded and not pulled", imageID: other, want: other },
  { name: "dockershim", imageID: `docker-pullable://registry.example/main@${other}`, want: other },
  { name: "not pulled yet", imageID: "", want: undefined },
  { name: "no digest at all", imageID: "registry.example/main:latest", want: undefined },
  { name: "a digest that is too short", imageID: `registry.example/main@${other.slice(0, -1)}`, want: undefined },
];
for (const { name, imageID, want } of images) {
  t.test(`an image's digest: ${name}`, async (t) => {
    t.equal(readPod(pod({ name: "a", image: imageID }), NAMING)?.kind.facts.image_digest, want);
  });
}

t.test(
  "the default container's image is the pod's; sidecars have theirs; finished init containers count for nothing",
  async (t) => {
    const base = pod({ name: "a" });
    const statuses = (...names: string[]) =>
      names.map((name, i) => ({ name, imageID: `x@sha256:${String(i).repeat(64)}` }));
    const known = readPod(
      {
        ...base,
        metadata: { ...base.metadata, annotations: { "kubectl.kubernetes.io/default-container": "app" } },
        spec: {
          ...base.spec,
          containers: [{ name: "proxy" }, { name: "app" }],
          initContainers: [{ name: "setup" }, { name: "native", restartPolicy: "Always" }],
        },
        status: {
          ...base.status,
          containerStatuses: statuses("proxy", "app"),
          initContainerStatuses: statuses("setup", "native"),
        },
      },
      NAMING,
    );
    const { image_digest, ...facts } = known!.kind.facts;
    t.equal(image_digest, `sha256:${"1".repeat(64)}`);
    t.same(
      Object.keys(facts).filter((fact) => fact.startsWith("image_digest.")),
      ["image_digest.app", "image_digest.native", "image_digest.proxy"],
    );
  },
);

const addresses = [
  {
    name: "both families, in their canonical texts",
    options: { ips: ["10.0.0.1", "2001:DB8:0:0::1"] },
    want: ["10.0.0.1", "2001:db8::1"],
    shared: false,
  },
  { name: "none yet", options: {}, want: [], shared: false },
  { name: "what is no address", options: { ips: ["10.0.0.999"] }, want: [], shared: false },
  {
    name: "those of its node, which are others' too",
    options: { ip: "192.168.7.1", hostNetwork: true },
    want: ["192.168.7.1"],
    shared: true,
  },
  { name: "one that it will lose", options: { ip: "10.0.0.1", deleting: true }, want: ["10.0.0.1"], shared: true },
];
for (const { name, options, want, shared } of addresses) {
  t.test(`a pod's addresses: ${name}`, async (t) => {
    t.match(readPod(pod({ name: "a", ...options }), NAMING), { addresses: want, shared });
  });
}

t.test("pods that have ended are none: their addresses are others' by then", async (t) => {
  for (const phase of ["Succeeded", "Failed"])
    t.equal(readPod(pod({ name: "a", ip: "10.0.0.1", phase }), NAMING), undefined);
  for (const phase of ["Pending", "Running", "Unknown"]) t.not(readPod(pod({ name: "a", phase }), NAMING), undefined);
});

t.test("whatever else comes in a pod's place is read without an exception, or is none", async () => {
  const like = fc.object({
    key: fc.constantFrom(
      "metadata",
      "spec",
      "status",
      "uid",
      "name",
      "namespace",
      "podIPs",
      "containers",
      "labels",
      "annotations",
      "ownerReferences",
    ),
    maxDepth: 4,
  });
  fc.assert(
    fc.property(fc.oneof(fc.jsonValue(), like), (object) => {
      const known = readPod(object, NAMING);
      return (
        known === undefined ||
        (typeof known.uid === "string" && Object.values(known.kind.facts).every((value) => typeof value === "string"))
      );
    }),
    { numRuns: 500 },
  );
});
