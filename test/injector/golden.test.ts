import { execFile } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { promisify } from "node:util";
import t from "tap";
import { parseAllDocuments } from "yaml";
import { findEnvoy } from "../../scripts/find-envoy.ts";
import { isFresh } from "../../scripts/injector-envoy.ts";
import { staleGoldenFiles } from "../../scripts/injector-golden.ts";
import { bootstrapOf } from "../../src/injector/bootstrap.ts";
import { injectPod, type JsonObject, parseInjectorConfig, templateOf } from "../../src/injector/injection.ts";
import { objectAt, objectsOf } from "../../src/injector/json.ts";
import { applyPatch } from "../../src/injector/patch.ts";

const GOLDEN = new URL("golden/", import.meta.url);
const CONFIG = "apiVersion: sallyport.dev/v1\nkind: InjectorConfig\nimage: {repository: sallyport, tag: test}\n";

t.test(
  "what is injected is what the golden files say (renew them with: npx tsx scripts/injector-golden.ts)",
  async (t) => {
    t.same(staleGoldenFiles(), []);
  },
);

t.test(
  "the injector's Envoy is made of the shipped configuration (renew it with: npx tsx scripts/injector-envoy.ts)",
  async (t) => {
    t.ok(isFresh());
  },
);

/** Every pod of the golden files. */
const pods = readdirSync(GOLDEN)
  .filter((name) => !name.startsWith("bootstrap"))
  .flatMap((name) =>
    (parseAllDocuments(readFileSync(new URL(name, GOLDEN), "utf8")) as { toJS(): JsonObject }[])
      .map((document) => document.toJS())
      .flatMap((object) => (Array.isArray(object.items) ? objectsOf(object.items) : [object]))
      .flatMap((object) => {
        const template = templateOf(object);
        return template === undefined ? [] : [{ name, pod: template.pod }];
      }),
  );

function addedTo(pod: JsonObject): readonly JsonObject[] {
  const spec = objectAt(pod, "spec");
  return [...objectsOf(spec.initContainers), ...objectsOf(spec.containers)].filter(({ name }) =>
    ["sallyport", "sallyport-envoy"].includes(String(name)),
  );
}

t.test("every added container keeps to the Restricted Pod Security Standard by itself", async (t) => {
  const seen = pods.flatMap(({ pod }) => addedTo(pod));
  t.ok(seen.length > 30);
  for (const { securityContext } of seen) {
    t.match(securityContext, {
      allowPrivilegeEscalation: false,
      capabilities: { drop: ["ALL"] },
      privileged: false,
      readOnlyRootFilesystem: true,
      runAsNonRoot: true,
      seccompProfile: { type: "RuntimeDefault" },
    });
  }
});

t.test(
  "every added volume is of a kind that the Restricted Pod Security Standard lets in, and is mounted",
  async (t) => {
    for (const { name, pod } of pods) {
      const mounted = new Set(
        addedTo(pod).flatMap(({ volumeMounts }) => objectsOf(volumeMounts).map((mount) => mount.name)),
      );
      const added = objectsOf(objectAt(pod, "spec").volumes).filter((volume) =>
        String(volume.name).startsWith("sallyport-"),
      );
      for (const volume of added) {
        const kinds = Object.keys(volume).filter((key) => key !== "name");
        t.ok(
          ["configMap", "downwardAPI", "emptyDir", "projected", "secret"].includes(kinds.join()),
          `${name}: ${kinds}`,
        );
      }
      t.same(new Set(added.map((volume) => volume.name)), mounted, `${name}: volumes and mounts are the same`);
    }
  },
);

t.test("names of ports have at most the 15 characters that the API takes", async (t) => {
  for (const container of pods.flatMap(({ pod }) => addedTo(pod))) {
    for (const { name } of objectsOf(container.ports)) t.match(name, /^[a-z0-9-]{1,15}$/);
  }
});

t.test("a real Envoy takes the argument, for every protocol and address", async (t) => {
  const envoy = (await findEnvoy({ install: true })).path;
  for (const listenAddress of ["0.0.0.0", "::"]) {
    for (const protocol of ["http1", "http2"] as const) {
      const config = parseInjectorConfig(`${CONFIG}listenAddress: "${listenAddress}"\n`, "test");
      const bootstrap = JSON.stringify(bootstrapOf(config, { port: 8080, protocol }));
      const flags = ["--mode", "validate", "--disable-hot-restart", "--service-node", "a", "--service-cluster", "b"];
      const ran = await promisify(execFile)(envoy, [...flags, "--config-yaml", bootstrap]);
      t.match(ran.stdout + ran.stderr, / OK\n/);
    }
  }
});

t.test("the kubelet leaves Envoy's configuration as it was meant", async (t) => {
  const config = parseInjectorConfig(`${CONFIG}envoy: {tls: {secret: s, clientPrefix: "spiffe://a/$(X)"}}\n`, "test");
  const pod = { spec: { containers: [{ name: "app", ports: [{ containerPort: 8080 }] }] } };
  const injection = injectPod(pod, config, { namespace: "shop", nativeSidecars: true });
  if (injection.kind !== "injected") throw new Error(injection.why);
  const [, envoy] = addedTo(applyPatch(pod, injection.patch));
  const args = envoy?.args as readonly string[];
  // As it expands them: `$$` is `$`, and no `$(NAME)` is left to look up.
  const expanded = args[1]!.replaceAll("$$", "\u0000");
  t.notMatch(expanded, /\$\(/);
  const read = JSON.parse(expanded.replaceAll("\u0000", "$")) as JsonObject;
  t.same(read, bootstrapOf(config, { port: 8080, protocol: "http1" }));
  t.match(JSON.stringify(read), "spiffe://a/$(X)");
});
