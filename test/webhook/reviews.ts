/** Admission reviews as an API server sends them, for Pods as the controllers of each kind of workload create them. */

import type { JsonObject } from "../../src/injector/injection.ts";

export interface Asked {
  readonly object?: JsonObject | null;
  readonly uid?: string;
  readonly namespace?: string;
  readonly operation?: string;
  readonly resource?: { readonly group: string; readonly version: string; readonly resource: string };
  readonly subResource?: string;
  readonly dryRun?: boolean;
  readonly name?: string;
}

export const UID = "705ab4f5-6393-11e8-b7cc-42010a800002";

/** The whole review; every field that Kubernetes 1.34 sends is there. */
export function reviewOf(asked: Asked): JsonObject {
  const kind = { group: "", version: "v1", kind: "Pod" };
  const resource = asked.resource === undefined ? { group: "", version: "v1", resource: "pods" } : asked.resource;
  return {
    kind: "AdmissionReview",
    apiVersion: "admission.k8s.io/v1",
    request: {
      uid: asked.uid ?? UID,
      kind,
      resource,
      ...(asked.subResource === undefined ? {} : { subResource: asked.subResource }),
      requestKind: kind,
      requestResource: resource,
      ...(asked.name === undefined ? {} : { name: asked.name }),
      namespace: asked.namespace ?? "shop",
      operation: asked.operation ?? "CREATE",
      userInfo: {
        username: "system:serviceaccount:kube-system:replicaset-controller",
        uid: "f0e4f3a6-5d0c-4a39-bb1c-02a4e4c8e4f5",
        groups: ["system:serviceaccounts", "system:authenticated"],
      },
      object: asked.object === undefined ? podOf("ReplicaSet") : asked.object,
      oldObject: null,
      dryRun: asked.dryRun ?? false,
      options: { kind: "CreateOptions", apiVersion: "meta.k8s.io/v1" },
    },
  };
}

export type Owner = "none" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" | "ReplicationController";
export const OWNERS: readonly Owner[] = [
  "none",
  "ReplicaSet",
  "StatefulSet",
  "DaemonSet",
  "Job",
  "ReplicationController",
];

const API_VERSIONS: Readonly<Record<Exclude<Owner, "none">, string>> = {
  ReplicaSet: "apps/v1",
  StatefulSet: "apps/v1",
  DaemonSet: "apps/v1",
  Job: "batch/v1",
  ReplicationController: "v1",
};

/** A Pod as its controller sends it: without a namespace, and without a name unless its kind gives one (StatefulSet). */
export function podOf(owner: Owner, spec: JsonObject = {}, metadata: JsonObject = {}): JsonObject {
  const named = owner === "none" || owner === "StatefulSet";
  return {
    kind: "Pod",
    apiVersion: "v1",
    metadata: {
      ...(named ? { name: owner === "none" ? "orders" : "orders-0" } : { generateName: "orders-7d4b9c-" }),
      labels: { app: "orders" },
      ...(owner === "none"
        ? {}
        : {
            ownerReferences: [
              {
                apiVersion: API_VERSIONS[owner],
                kind: owner,
                name: "orders-7d4b9c",
                uid: "4f5a0a86-3e8c-4c4a-a6d2-6b1b3a6a0c11",
                controller: true,
                blockOwnerDeletion: true,
              },
            ],
          }),
      ...metadata,
    },
    spec: {
      containers: [
        {
          name: "app",
          image: "registry.example/orders:1",
          ports: [{ containerPort: 8080, protocol: "TCP" }],
          env: [{ name: "PASSWORD", value: "hunter2-secret" }],
        },
      ],
      restartPolicy: owner === "Job" ? "Never" : "Always",
      ...spec,
    },
    status: {},
  };
}
