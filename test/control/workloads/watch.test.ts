/** Tests that pods are followed over everything that a watch of the Kubernetes API goes through, over real HTTP. */

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { fromBinary } from "@bufbuild/protobuf";
import t, { type Test } from "tap";
import { createPki } from "../../../scripts/pki.ts";
import type { ApiError } from "../../../src/control/workloads/api.ts";
import { type KubernetesSettings, PodWatch } from "../../../src/control/workloads/watch.ts";
import { WorkloadsSchema } from "../../../src/gen/sallyport/control/v1/control_pb.ts";
import { type FakeApi, type FakeApiOptions, fakeApi, pod } from "./fake-api.ts";

const EPOCH = "0123456789abcdef";

interface Scene {
  readonly api: FakeApi;
  readonly watch: PodWatch;
  readonly failures: ApiError[];
  /** Back-offs that were asked for, milliseconds; none is waited for. */
  readonly waits: number[];
  /** What a new sidecar would be told: `namespace/pod address`, sorted. */
  readonly told: () => readonly string[];
  /** Resolves once it holds. */
  readonly until: (what: string, holds: () => boolean) => Promise<void>;
}

async function scene(
  t: Test,
  more: Partial<KubernetesSettings> = {},
  {
    pods = [pod({ name: "a", ip: "10.0.0.1" })],
    idleMsMax,
    ...options
  }: FakeApiOptions & {
    readonly pods?: readonly ReturnType<typeof pod>[];
    readonly idleMsMax?: number;
  } = {},
): Promise<Scene> {
  const api = await fakeApi(t, options);
  api.set(...pods);
  const failures: ApiError[] = [];
  const waits: number[] = [];
  const watch = new PodWatch({
    settings: {
      api: api.url,
      namespaces: [],
      labelSelector: undefined,
      fieldSelector: undefined,
      tokenFile: undefined,
      caFile: undefined,
      tokenAudience: undefined,
      naming: {
        principal: "spiffe://{trustDomain}/ns/{namespace}/sa/{serviceAccount}",
        trustDomain: "td",
        issuer: undefined,
        labels: [],
      },
      podsMax: 10_000,
      ...more,
    },
    epoch: EPOCH,
    clock: {
      monotonicMs: () => performance.now(),
      random: () => 0.5,
      sleep: async (ms) => {
        waits.push(ms);
        await new Promise((resolve) => setImmediate(resolve));
      },
    },
    onChange: () => {},
    onFailure: (error) => failures.push(error),
    onWell: () => {},
    onList: () => {},
    onLeftOut: () => {},
    ...(idleMsMax === undefined ? {} : { idleMsMax }),
  });
  t.teardown(() => watch.close());
  watch.start();
  const until = async (what: string, holds: () => boolean): Promise<void> => {
    const end = performance.now() + 20_000;
    while (!holds()) {
      if (performance.now() > end) throw new Error(`did not come: ${what}; ${failures.at(-1)?.message}`);
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  };
  const told = (): readonly string[] => {
    watch.feed.flush();
    const known = new Map<string, string>();
    for (const bytes of watch.feed.since(undefined)) {
      const { kinds, put, removed } = fromBinary(WorkloadsSchema, gunzipSync(bytes));
      for (const uid of removed) known.delete(uid);
      for (const one of put) {
        const { namespace } = kinds[one.kind]!.facts;
        known.set(one.uid, `${namespace}/${one.facts.pod} ${one.addresses.join(" ")}${one.shared ? " shared" : ""}`);
      }
    }
    return [...known.values()].sort();
  };
  await until("a watch", () => failures.length > 0 || api.watchers() > 0);
  return { api, watch, failures, waits, told, until };
}

t.test("pods are listed in pages, then followed as they come, change and go", async (t) => {
  const many = Array.from({ length: 1_203 }, (_, i) => pod({ name: `p${i}`, ip: `10.1.${i >> 8}.${i & 255}` }));
  const { api, told, until, watch } = await scene(t, {}, { pods: many });
  t.equal(told().length, 1_203);
  t.match(api.asked.slice(0, 3), ["GET /api/v1/pods?limit=500", /continue=s\d+:500$/, /continue=s\d+:1000$/]);
  t.match(api.asked[3], /watch=true&allowWatchBookmarks=true&resourceVersion=2203&timeoutSeconds=450$/);
  api.set(pod({ name: "new", ip: "10.9.0.1" }), pod({ name: "p0", ip: "10.9.0.2" }));
  api.delete("uid-shop-p1");
  await until(
    "the changes",
    () => told().includes("shop/new 10.9.0.1") && !told().some((one) => one.startsWith("shop/p1 ")),
  );
  t.ok(told().includes("shop/p0 10.9.0.2"));
  t.equal(told().length, 1_203);
  t.match(watch.health, { broken: false });
});

t.test("a watch that ends goes on from the last version it heard of, by a bookmark too, without a list", async (t) => {
  const { api, told, until, failures } = await scene(t);
  api.bookmark();
  const before = api.asked.length;
  await until("the bookmark", () => true);
  api.set(pod({ name: "b", ip: "10.0.0.2" }));
  await until("b", () => told().length === 2);
  api.bookmark();
  api.endWatches();
  await until("another watch", () => api.asked.length > before && api.watchers() > 0);
  api.set(pod({ name: "c", ip: "10.0.0.3" }));
  await until("c", () => told().length === 3);
  t.match(api.asked.at(-1), /watch=true.*resourceVersion=1004/);
  t.equal(api.asked.filter((one) => one.includes("limit=")).length, 1, "one list");
  t.same(failures, []);
});

t.test("what was missed over a cut connection comes with the next watch", async (t) => {
  const { api, told, until, failures } = await scene(t);
  api.cut();
  api.set(pod({ name: "b", ip: "10.0.0.2" }));
  api.delete("uid-shop-a");
  await until("the changes", () => told().join() === "shop/b 10.0.0.2");
  t.equal(api.asked.filter((one) => one.includes("limit=")).length, 1);
  t.match(failures[0], { code: "ERR_KUBERNETES", message: /connection broke: ECONNRESET|cannot be asked/ });
});

t.test("410 Gone, told in the watch, is followed by a list that takes away what went meanwhile", async (t) => {
  const { api, told, until, failures } = await scene(
    t,
    {},
    {
      pods: [pod({ name: "a", ip: "10.0.0.1" }), pod({ name: "b", ip: "10.0.0.2" })],
    },
  );
  api.mute = true;
  api.delete("uid-shop-b");
  api.set(pod({ name: "c", ip: "10.0.0.3" }));
  api.compact();
  api.mute = false;
  api.cut();
  await until("the list", () => told().join() === "shop/a 10.0.0.1,shop/c 10.0.0.3");
  t.ok(failures.some(({ status }) => status === 410));
  t.equal(api.asked.filter((one) => one.includes("limit=")).length, 2);
});

t.test("410 Gone as an answer, and for a page that has expired, begin a list anew", async (t) => {
  const { api, told, until } = await scene(t);
  api.fail({ status: 410 });
  api.cut();
  await until("a second list", () => api.asked.filter((one) => one.includes("limit=")).length === 2);
  await until("a watch", () => api.watchers() === 1);
  t.same(told(), ["shop/a 10.0.0.1"]);
});

t.test("failures are tried again with growing pauses, Retry-After is heeded, and what is known stays", async (t) => {
  const { api, told, until, waits, failures, watch } = await scene(t);
  const well = waits.length;
  api.fail(
    ...Array.from({ length: 8 }, () => ({ status: 500 })),
    { status: 429, headers: { "retry-after": "7" } },
    { status: 403, body: JSON.stringify({ kind: "Status", message: 'pods is forbidden: User "x" cannot list' }) },
  );
  api.cut();
  await until("a watch again", () => api.watchers() === 1 && failures.length >= 11);
  // Half of the bound at least, and with a random number of one half three quarters of it.
  t.same(waits.slice(well), [375, 750, 1_500, 3_000, 6_000, 12_000, 22_500, 22_500, 22_500, 29_500, 22_500]);
  t.match(failures.at(-1), { status: 403, message: /403 pods is forbidden: User "x" cannot list/ });
  t.same(told(), ["shop/a 10.0.0.1"]);
  await until("all to be well", () => watch.detail === "watching");
});

t.test("answers that are no lists are failures, and nothing is told until there is one", async (t) => {
  const body = ["null", "[]", "{}", "nonsense", '{"metadata":{"resourceVersion":"1"},"items":{}}', '{"metadata":{}}'];
  const api = await fakeApi(t);
  api.set(pod({ name: "a", ip: "10.0.0.1" }));
  api.fail(...body.map((text) => ({ status: 200, body: text })), {
    status: 302,
    headers: { location: "http://192.0.2.1/" },
  });
  const { failures, until, told, watch } = await scene(t, { api: api.url });
  await until("a list", () => watch.loaded);
  t.equal(failures.length, body.length + 1);
  t.equal(failures.at(-1)?.status, 302, "nobody is followed elsewhere with the token");
  t.same(told(), ["shop/a 10.0.0.1"]);
});

t.test("a watch on which nothing comes is begun anew", async (t) => {
  const { api, until, failures } = await scene(t, {}, { idleMsMax: 50 });
  await until("another watch", () => api.asked.filter((one) => one.includes("watch=true")).length > 1);
  t.match(failures[0]?.message, /nothing was heard for 0.05 s: the watch hangs/);
});

t.test("events that are none end the watch, and harm nothing", async (t) => {
  for (const line of [
    "no json",
    "[]",
    "null",
    '{"type":"ADDED"}',
    '{"type":"ERROR"}',
    '{"type":"ADDED","object":{"metadata":{}}}',
  ]) {
    const { api, told, until, failures } = await scene(t);
    api.say(line);
    await until("the failure", () => failures.length > 0);
    await until("another watch", () => api.watchers() === 1);
    t.same(told(), ["shop/a 10.0.0.1"], line);
  }
});

t.test("an event that cannot be read twice over is passed by a list", async (t) => {
  const { api, told, until, failures } = await scene(t);
  const count = (isWatch: boolean) => api.asked.filter((one) => one.includes("watch=true") === isWatch).length;
  const lists = count(false);
  for (const time of [1, 2]) {
    const watches = count(true);
    api.say("no json");
    await until("the failure", () => failures.length === time);
    await until("another watch", () => count(true) === watches + 1 && api.watchers() === 1);
    t.equal(count(false), lists + time - 1, "once may be the connection's fault");
  }
  t.same(told(), ["shop/a 10.0.0.1"]);
});

t.test("a token that the API's refusal repeats is not repeated", async (t) => {
  const { api, until, failures } = await scene(t);
  const token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl";
  const message = `pods is forbidden: ${token} may not, nor ${token.slice(0, 30)}`;
  api.fail({ status: 403, body: JSON.stringify({ kind: "Status", message }) });
  api.cut();
  await until("the failure", () => failures.some(({ status }) => status === 403));
  const failure = failures.find(({ status }) => status === 403);
  t.match(failure?.message, "403 pods is forbidden: [token] may not, nor [token]");
});

t.test("the token and the authorities are read anew for every call", async (t) => {
  const folder = t.testdir({ token: "first\n", "ca.pem": "" });
  const pki = await createPki();
  const { certPem, keyPem } = await pki.issue({ ips: ["127.0.0.1"], dns: [] });
  writeFileSync(join(folder, "ca.pem"), pki.caPem);
  let wanted = "first";
  const { api, until, told, failures } = await scene(
    t,
    { tokenFile: join(folder, "token"), caFile: join(folder, "ca.pem") },
    { token: () => wanted, tls: { cert: certPem, key: keyPem } },
  );
  t.same(told(), ["shop/a 10.0.0.1"]);
  wanted = "second";
  writeFileSync(join(folder, "token"), "second\n");
  api.cut();
  await until("a watch with the new token", () => api.tokens.at(-1) === "second" && api.watchers() === 1);
  const other = await createPki();
  writeFileSync(join(folder, "ca.pem"), other.caPem);
  const asked = api.asked.length;
  api.cut();
  await until("calls that are refused", () => /CERT|SIGNATURE|certificate/i.test(failures.at(-1)?.message ?? ""));
  t.equal(api.asked.length, asked, "nothing was sent to whoever could not prove itself");
});

t.test("namespaces have a watch each, and all must have been seen before anybody is told", async (t) => {
  const { api, told, until, watch } = await scene(
    t,
    { namespaces: ["shop", "bank"], labelSelector: "app in (a,b)", fieldSelector: "spec.nodeName=n1" },
    {
      pods: [
        pod({ name: "a", ip: "10.0.0.1" }),
        pod({ name: "b", namespace: "bank", ip: "10.0.0.2" }),
        pod({ name: "c", namespace: "other" }),
      ],
    },
  );
  await until("both", () => api.watchers() === 2 && watch.loaded);
  t.same(told(), ["bank/b 10.0.0.2", "shop/a 10.0.0.1"]);
  t.ok(
    api.asked.includes(
      "GET /api/v1/namespaces/bank/pods?labelSelector=app+in+(a,b)&fieldSelector=spec.nodeName=n1&limit=500",
    ),
  );
  api.compact();
  api.set(pod({ name: "d", namespace: "bank", ip: "10.0.0.4" }));
  api.cut();
  await until("d", () => told().includes("bank/d 10.0.0.4"));
  t.equal(told().length, 3, "a list of one namespace takes nothing of the other's away");
});

t.test("pods beyond the bound are left out; ended ones make room", async (t) => {
  const { api, told, until, watch } = await scene(
    t,
    { podsMax: 2 },
    {
      pods: ["a", "b", "c"].map((name, i) => pod({ name, ip: `10.0.0.${i + 1}` })),
    },
  );
  t.same(told(), ["shop/a 10.0.0.1", "shop/b 10.0.0.2"]);
  api.set(pod({ name: "a", ip: "10.0.0.1", phase: "Succeeded" }));
  await until("a to end", () => watch.feed.size === 1);
  api.set(pod({ name: "d", ip: "10.0.0.9" }));
  await until("d", () => told().includes("shop/d 10.0.0.9"));
});

t.test("a watch that is down for some seconds is broken, and sidecars are to hear of it at once", async (t) => {
  let nowMs = 0;
  const api = await fakeApi(t);
  let news = 0;
  const watch = new PodWatch({
    settings: {
      api: api.url,
      namespaces: [],
      labelSelector: undefined,
      fieldSelector: undefined,
      tokenFile: undefined,
      caFile: undefined,
      tokenAudience: undefined,
      naming: { principal: "spiffe://td/{namespace}/{serviceAccount}", trustDomain: "", issuer: undefined, labels: [] },
      podsMax: 10,
    },
    epoch: EPOCH,
    clock: { monotonicMs: () => nowMs, random: () => 0, sleep: () => new Promise((resolve) => setTimeout(resolve, 5)) },
    onChange: () => void news++,
    onFailure: () => {},
    onWell: () => {},
    onList: () => {},
    onLeftOut: () => {},
  });
  t.teardown(() => watch.close());
  t.same(watch.loaded, false);
  watch.start();
  const until = async (holds: () => boolean): Promise<void> => {
    while (!holds()) await new Promise((resolve) => setTimeout(resolve, 5));
  };
  await until(() => watch.loaded && api.watchers() === 1);
  t.same(watch.health, { silentMs: 0, broken: false });
  api.fail(...Array.from({ length: 10_000 }, () => ({ status: 503 })));
  api.cut();
  await until(() => watch.detail.includes("503"));
  t.equal(watch.health.broken, false, "it may be back in a moment");
  const before = news;
  nowMs += 5_001;
  await until(() => news > before);
  t.same(watch.health, { silentMs: 5_001, broken: true });
});
