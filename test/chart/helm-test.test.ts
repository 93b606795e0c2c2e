import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { startWebhook } from "../../src/server/webhook.ts";
import { createLog } from "../../src/telemetry/log.ts";
import { makeCertDir } from "../support/envoy.ts";
import { CHART, one, render, WITH_HELM } from "./helm.ts";

const ANSWER_MS_MAX = 30_000;

interface Said {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** Runs the script of `helm test` as its pod would. */
async function runScript(environment: Readonly<Record<string, string>>): Promise<Said> {
  const script = join(CHART, "files/test-webhook.mjs");
  return await new Promise((resolve) => {
    execFile(
      process.execPath,
      [script],
      { timeout: ANSWER_MS_MAX, env: { ...process.env, ...environment } },
      (error, out, err) => resolve({ code: error === null ? 0 : Number(error.code), out, err }),
    );
  });
}

for (const files of [[], ["values-istio.yaml"]]) {
  t.test(`helm test passes on a webhook that answers: ${files[0] ?? "the defaults"}`, WITH_HELM, async (t) => {
    const folder = await mkdtemp(join(tmpdir(), "sallyport-helm-test-"));
    t.teardown(() => rm(folder, { recursive: true, force: true }));
    const certs = await makeCertDir();
    t.teardown(() => certs.remove());
    const objects = await render({ files });
    const injectorConfig = join(folder, "injector.yaml");
    await writeFile(injectorConfig, one(objects, "ConfigMap", "sallyport-injector").data["injector.yaml"]);
    const webhook = await startWebhook(
      {
        address: "127.0.0.1:0",
        healthAddress: undefined,
        injectorConfig,
        tlsCertFile: join(certs.path, "server.crt"),
        tlsKeyFile: join(certs.path, "server.key"),
        drainDelayMs: 0,
        drainTimeoutMs: 1_000,
        askVersion: async () => ({ major: 1, minor: 34, text: "v1.34.2" }),
      },
      createLog("silent"),
    );
    t.teardown(() => webhook.stop());
    const pod = one(objects, "Pod", "sallyport-test");
    const given = Object.fromEntries(
      pod.spec.containers[0].env.map(({ name, value }: Record<string, string>) => [name, value]),
    );
    t.equal(given.WEBHOOK, "https://sallyport-webhook.sallyport-system.svc:443/inject");
    const port = webhook.addresses.webhook.split(":").at(-1);
    const environment = {
      ...given,
      WEBHOOK: `https://localhost:${port}/inject`,
      CA_FILE: join(certs.path, "ca.crt"),
    };
    const passed = await runScript(environment);
    t.equal(passed.code, 0, passed.err);
    t.match(passed.out, /the webhook answers, and would make \d+ changes to a pod/);

    const other = await makeCertDir();
    t.teardown(() => other.remove());
    const distrusted = await runScript({ ...environment, CA_FILE: join(other.path, "ca.crt") });
    t.equal(distrusted.code, 1, "a certificate of another authority is noticed");
    const unready = await runScript({ ...environment, CONTROL_READY: "http://127.0.0.1:1/readyz" });
    t.equal(unready.code, 1, "and a control plane that is away");
    t.match(unready.err, "http://127.0.0.1:1/readyz");
  });
}
