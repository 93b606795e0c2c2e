import { createPrivateKey, X509Certificate } from "node:crypto";
import t from "tap";
import { parse } from "yaml";
import { type Cluster, startCluster } from "./cluster.ts";
import { dryInstall, NAMESPACE, one, type Rendered, render, WITH_HELM } from "./helm.ts";

const DAY_S = 86_400;
const HOST = "sallyport-webhook.sallyport-system.svc";

interface Made {
  readonly secret: Rendered;
  readonly crt: string;
  readonly key: string;
  /** Authorities that the API server believes, the newest first. */
  readonly believed: readonly X509Certificate[];
}

/** An upgrade: what is in the cluster is found, and what was rendered is in the cluster afterwards. */
async function upgrade(cluster: Cluster, values: object = {}): Promise<Made> {
  const more = ["--dry-run=server", `--kubeconfig=${cluster.kubeconfig}`];
  const objects = await render({ values, more });
  const secret = one(objects, "Secret", "sallyport-webhook-tls");
  cluster.secrets.set(`${NAMESPACE}/${secret.metadata.name}`, secret);
  const decode = (text: string) => Buffer.from(text, "base64").toString("utf8");
  const bundle = decode(one(objects, "MutatingWebhookConfiguration").webhooks[0].clientConfig.caBundle);
  if (bundle !== decode(secret.data["ca.crt"])) throw new Error("caBundle and Secret differ");
  const believed = (bundle.match(/-----BEGIN[^-]+-----[^-]+-----END[^-]+-----/g) ?? []).map(
    (pem) => new X509Certificate(pem),
  );
  return { secret, crt: decode(secret.data["tls.crt"]), key: decode(secret.data["tls.key"]), believed };
}

function isBelieved(crt: string, { believed }: Made): boolean {
  const leaf = new X509Certificate(crt);
  return believed.some((authority) => leaf.checkIssued(authority) && leaf.verify(authority.publicKey));
}

/** Lets the certificate that the cluster has end in so many days, as far as Helm can tell. */
function noteEnd(cluster: Cluster, days: number): void {
  const secret = cluster.secrets.get(`${NAMESPACE}/sallyport-webhook-tls`);
  const annotations = secret?.metadata.annotations as Record<string, string>;
  annotations["sallyport.dev/not-after"] = String(Math.floor(Date.now() / 1000) + days * DAY_S);
}

async function withCluster(test: (cluster: Cluster) => Promise<void>): Promise<void> {
  const cluster = await startCluster();
  try {
    await test(cluster);
  } finally {
    await cluster.close();
  }
}

t.test("the certificate is for the Service, by the authority that the API server believes", WITH_HELM, async (t) => {
  await withCluster(async (cluster) => {
    const made = await upgrade(cluster);
    const leaf = new X509Certificate(made.crt);
    t.equal(leaf.checkHost(HOST), HOST);
    t.equal(leaf.checkHost(`${HOST}.cluster.local`), `${HOST}.cluster.local`);
    t.equal(leaf.ca, false);
    t.equal(made.believed.length, 1);
    t.ok(isBelieved(made.crt, made));
    const notAfter = Number(made.secret.metadata.annotations?.["sallyport.dev/not-after"]);
    t.ok(Math.abs(Date.parse(leaf.validTo) / 1000 - notAfter) < 300, "the end that is noted is the certificate's");
    t.notOk(JSON.stringify(made.secret.data).includes("ca.key"), "nobody keeps the authority's key");
  });
});

t.test("an upgrade keeps the certificate", WITH_HELM, async (t) => {
  await withCluster(async (cluster) => {
    const first = await upgrade(cluster);
    const second = await upgrade(cluster, { webhook: { replicas: 3 } });
    t.equal(second.crt, first.crt);
    t.equal(second.key, first.key);
    t.same(second.secret, first.secret);
  });
});

t.test("renewal at the end's approach: neither side of the change is turned away", WITH_HELM, async (t) => {
  await withCluster(async (cluster) => {
    const first = await upgrade(cluster);
    noteEnd(cluster, 181);
    t.equal((await upgrade(cluster)).crt, first.crt, "a day before the time it is kept");
    noteEnd(cluster, 179);
    const second = await upgrade(cluster);
    t.not(second.crt, first.crt, "a day after it is renewed");
    t.not(second.key, first.key, "with a key of its own");
    t.ok(isBelieved(second.crt, second));
    t.ok(isBelieved(first.crt, second), "pods that still serve the old one are believed");
    t.equal(second.believed.length, 2);
    t.equal((await upgrade(cluster)).crt, second.crt, "once");
  });
});

t.test("renewal when asked for, and of two renewals only the last authority stays", WITH_HELM, async (t) => {
  await withCluster(async (cluster) => {
    const asked = (renew: string) => upgrade(cluster, { webhook: { certificate: { renew } } });
    const first = await upgrade(cluster);
    const second = await asked("2026-12-01");
    t.not(second.crt, first.crt);
    t.equal((await asked("2026-12-01")).crt, second.crt, "the same wish again is no wish");
    const third = await asked("2026-12-02");
    t.equal(third.believed.length, 2);
    t.ok(isBelieved(second.crt, third));
    t.notOk(isBelieved(first.crt, third));
  });
});

t.test("another name, or a Secret that lost a part, makes a new certificate", WITH_HELM, async (t) => {
  await withCluster(async (cluster) => {
    const first = await upgrade(cluster);
    const moved = await upgrade(cluster, { clusterDomain: "corp.example" });
    t.not(moved.crt, first.crt);
    t.equal(new X509Certificate(moved.crt).checkHost(`${HOST}.corp.example`), `${HOST}.corp.example`);
    delete moved.secret.data["tls.key"];
    const whole = await upgrade(cluster, { clusterDomain: "corp.example" });
    t.not(whole.crt, moved.crt);
    t.ok(new X509Certificate(whole.crt).checkPrivateKey(createPrivateKey(whole.key)));
  });
});

t.test("sidecars believe the control plane by the authority that signed its certificate", WITH_HELM, async (t) => {
  await withCluster(async (cluster) => {
    const values = {
      policy: { control: true },
      control: {
        enabled: true,
        bundleKeys: { inline: "{}" },
        tokensSecretRef: { name: "tokens" },
        grants: [{ spiffe: "spiffe://cluster.local/ns/*/sa/*", roles: ["sidecar"] }],
      },
    };
    const more = ["--dry-run=server", `--kubeconfig=${cluster.kubeconfig}`];
    const objects = await render({ values, more });
    const secret = one(objects, "Secret", "sallyport-control-tls");
    const { control } = parse(one(objects, "ConfigMap", "sallyport-injector").data["injector.yaml"]);
    t.equal(control.address, "https://sallyport-control.sallyport-system.svc:9292");
    const decode = (text: string) => Buffer.from(text, "base64").toString("utf8");
    t.equal(control.ca, decode(secret.data["ca.crt"]));
    const leaf = new X509Certificate(decode(secret.data["tls.crt"]));
    t.ok(leaf.verify(new X509Certificate(control.ca).publicKey));
    t.ok(leaf.checkHost("sallyport-control.sallyport-system.svc"));
    t.ok(leaf.checkHost("localhost"), "operators come by `kubectl port-forward`");
  });
});

t.test(
  "the control plane's own authority signs for localhost; another is asked for no such name",
  WITH_HELM,
  async (t) => {
    const names = async (tls: object): Promise<readonly string[]> => {
      const control = { enabled: true, bundleKeys: { inline: "{}" }, tokensSecretRef: { name: "tokens" } };
      const values = { control: { ...control, tls: { kind: "certManager", ...tls } } };
      return one(await render({ values }), "Certificate", "sallyport-control-tls").spec.dnsNames;
    };
    const host = "sallyport-control.sallyport-system.svc";
    t.same(await names({}), [host, `${host}.cluster.local`, "localhost"]);
    const issuerRef = { name: "corp", kind: "ClusterIssuer", group: "cert-manager.io" };
    t.same(await names({ issuerRef }), [host, `${host}.cluster.local`]);
    t.same(await names({ issuerRef, extraDnsNames: ["localhost"] }), [host, `${host}.cluster.local`, "localhost"]);
  },
);

t.test("cert-manager's certificate is put into the webhook's configuration by cert-manager", WITH_HELM, async (t) => {
  const objects = await render({ values: { webhook: { certificate: { kind: "certManager" } } } });
  const { metadata, webhooks } = one(objects, "MutatingWebhookConfiguration");
  const [namespace, name] = metadata.annotations?.["cert-manager.io/inject-ca-from"]?.split("/") ?? [];
  t.equal(namespace, NAMESPACE);
  t.equal(webhooks[0].clientConfig.caBundle, undefined);
  const certificate = one(objects, "Certificate", name);
  t.ok(certificate.spec.dnsNames.includes(HOST));
  t.equal(certificate.spec.duration, "17520h");
  t.equal(certificate.spec.renewBefore, "4320h");
  t.equal(objects.filter(({ kind }) => kind === "Secret").length, 0);
  const issuerRef = { name: "corp", kind: "ClusterIssuer", group: "cert-manager.io" };
  const corp = await render({ values: { webhook: { certificate: { kind: "certManager", issuerRef } } } });
  t.equal(corp.filter(({ kind }) => kind === "Issuer").length, 0, "with an issuer named, none is made");
  t.same(one(corp, "Certificate").spec.issuerRef, issuerRef);
});

t.test("the notes say what to do next, and what is risky", WITH_HELM, async (t) => {
  await withCluster(async (cluster) => {
    const notes = async (options: Parameters<typeof dryInstall>[1]) => {
      const { ok, out, err } = await dryInstall(cluster.kubeconfig, options);
      if (!ok) throw new Error(err);
      return out.slice(out.indexOf("NOTES:"));
    };
    const usual = await notes({});
    t.match(usual, "kubectl label namespace NAMESPACE sallyport.dev/injection=enabled");
    t.match(usual, "helm -n sallyport-system test sallyport");
    t.match(usual, "targetPort 15006");
    t.match(usual, /certificate ends on 20\d\d-\d\d-\d\d/);
    t.notMatch(usual, /^!/m, "the defaults hold no risk to be told of");
    const careful = await notes({ files: ["values-observe-first.yaml"] });
    t.match(careful, "observed only: nothing is refused");
    t.match(careful, "pods start without a sidecar (webhook.failurePolicy Ignore)");
    t.match(careful, "Envoy lets every request pass (injector.envoy.failureMode allow)");
    t.match(
      await notes({ files: ["values-istio.yaml"] }),
      "Let the container istio-proxy ask at unix:/run/sallyport/check.sock",
    );
    const control = { enabled: true, bundleKeys: { inline: "{}" }, tokensSecretRef: { name: "tokens" } };
    const published = async (tls: object): Promise<string> => notes({ values: { control: { ...control, tls } } });
    const usually = await published({});
    t.match(usually, "get secret sallyport-control-tls -o jsonpath='{.data.ca\\.crt}'");
    t.match(usually, "fleet publish BUNDLE --control https://localhost:9292 --ca control-ca.crt --token-file TOKEN");
    t.notMatch(usually, "good for localhost");
    t.match(await published({ kind: "given", existingSecret: "given" }), "has to be good for localhost, too");
    t.match(await published({ kind: "insecurePlaintext" }), "--control http://localhost:9292 --token-file TOKEN");
  });
});
