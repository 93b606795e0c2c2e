// Asks the webhook about a pod that nobody creates, through its Service and by its certificate, as the API server does.
import { readFileSync } from "node:fs";
import { request } from "node:https";

const { WEBHOOK, CONTAINER, CONTROL_READY } = process.env;

function ask(body) {
  return new Promise((resolve, reject) => {
    const call = request(
      WEBHOOK,
      {
        method: "POST",
        ca: readFileSync("/ca/ca.crt"),
        headers: { "content-type": "application/json" },
        timeout: 5_000,
      },
      (response) => {
        let text = "";
        response.on("data", (chunk) => (text += chunk));
        response.on("end", () => resolve({ status: response.statusCode, text }));
      },
    );
    call.on("error", reject);
    call.on("timeout", () => call.destroy(new Error("no answer within 5 s")));
    call.end(JSON.stringify(body));
  });
}

function fail(what) {
  console.error(what);
  process.exit(1);
}

const container = (name) => ({ name, image: "example.invalid/app:1", ports: [{ name: "http", containerPort: 8080 }] });
const names = CONTAINER === "" ? ["app"] : ["app", CONTAINER];
const review = {
  apiVersion: "admission.k8s.io/v1",
  kind: "AdmissionReview",
  request: {
    uid: "00000000-0000-4000-8000-000000000000",
    kind: { group: "", version: "v1", kind: "Pod" },
    resource: { group: "", version: "v1", resource: "pods" },
    operation: "CREATE",
    namespace: "default",
    name: "helm-test",
    dryRun: true,
    userInfo: { username: "helm-test" },
    object: {
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: "helm-test", namespace: "default" },
      spec: { containers: names.map((name, index) => (index === 0 ? container(name) : { ...container(name), ports: [] })) },
    },
  },
};

const { status, text } = await ask(review).catch((error) => fail(`${WEBHOOK}: ${error.message}`));
if (status !== 200) fail(`${WEBHOOK}: expected status 200, got ${status}: ${text.slice(0, 500)}`);
const { response } = JSON.parse(text);
if (response?.allowed !== true) fail(`expected the pod to be allowed, got ${JSON.stringify(response?.status ?? response)}`);
if (response.patch === undefined) fail(`expected a patch, got ${JSON.stringify(response)}`);
const patch = JSON.parse(Buffer.from(response.patch, "base64").toString("utf8"));
console.log(`the webhook answers, and would make ${patch.length} changes to a pod`);

if (CONTROL_READY !== "") {
  const answer = await fetch(CONTROL_READY, { signal: AbortSignal.timeout(5_000) }).catch((error) =>
    fail(`${CONTROL_READY}: ${error.message}`),
  );
  if (!answer.ok) fail(`${CONTROL_READY}: expected status 200, got ${answer.status}: ${(await answer.text()).slice(0, 500)}`);
  console.log("the control plane is ready");
}
