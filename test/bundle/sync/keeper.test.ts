/** Tests that a good policy stays in force whatever is offered, and that each thing is told once. */

import { gzipSync } from "node:zlib";
import t from "tap";
import type { OfferResult } from "../../../src/bundle/sync/source.ts";
import { OperatingError } from "../../../src/model/errors.ts";
import { DAY_MS, makeBundle, makeSigner, rotate } from "./bundles.ts";
import { type KeeperScene, keeperScene } from "./scene.ts";

const signer = makeSigner();
const [one, two, three] = await Promise.all([1, 2, 3].map((revision) => makeBundle(signer, { revision })));
if (one === undefined || two === undefined || three === undefined) throw new Error("three bundles were made");

const offer = ({ keeper }: KeeperScene, bytes: Uint8Array): Promise<OfferResult> =>
  keeper.offer({ kind: "bytes", label: "b", bytes }, { from: "b" });

t.test("a signed bundle is put in force, and a newer one after it", async (t) => {
  const scene = keeperScene({ trust: signer.trust });
  t.match(await offer(scene, one), { kind: "in_force", bundle: { name: "shop", revision: 1 } });
  t.match(await offer(scene, two), { kind: "in_force", bundle: { revision: 2 } });
  t.same(scene.told, ["in force p1", "in force p2"]);
  t.match(scene.keeper.status(), { bundle: { revision: 2 }, freshness: "fresh", refusal: undefined });
});

t.test("what is in force already is not loaded again", async (t) => {
  const scene = keeperScene({ trust: signer.trust });
  await offer(scene, one);
  t.match(await offer(scene, one), { kind: "unchanged" });
  t.match(await offer(scene, gzipSync(one)), { kind: "unchanged" }, "nor in other clothes");
  t.same(scene.counted, ["loaded accepted", "loaded unchanged", "loaded unchanged"]);
  t.same(scene.told, ["in force p1"]);
});

t.test("once what was refused is gone, that is told, and both only once", async (t) => {
  const scene = keeperScene({ trust: signer.trust });
  await offer(scene, two);
  for (let i = 0; i < 2; i++) {
    await offer(scene, one);
    await offer(scene, one);
    await offer(scene, two);
    scene.keeper.confirmed();
  }
  const kinds = scene.told.map((text) => text.split(" ")[0]);
  t.same(kinds, ["in", "refused", "settled"]);
});

t.test("a name that is pinned is the first one taken, too", async (t) => {
  const scene = keeperScene({ trust: signer.trust, bundleName: "shop" });
  t.match(await offer(scene, await makeBundle(signer, { revision: 9, name: "bank" })), {
    kind: "refused",
    error: { code: "ERR_BUNDLE_NAME" },
  });
  t.match(scene.told, [/expected bundle shop, got bundle bank \(none in force\)$/]);
  t.match(await offer(scene, one), { kind: "in_force" });
});

const flipped = Uint8Array.from(two, (byte, index) => (index === two.length - 20 ? byte ^ 1 : byte));
const bad: { readonly name: string; readonly code: string; readonly bytes: Uint8Array }[] = [
  { name: "cut in half", code: "ERR_BUNDLE_INVALID", bytes: two.subarray(0, two.length / 2) },
  { name: "empty", code: "ERR_BUNDLE_INVALID", bytes: new Uint8Array() },
  { name: "a page of HTML", code: "ERR_BUNDLE_INVALID", bytes: Buffer.from("<html>log in</html>") },
  { name: "with one bit changed", code: "ERR_BUNDLE_INVALID", bytes: flipped },
  {
    name: "signed by a stranger",
    code: "ERR_BUNDLE_SIGNATURE",
    bytes: await makeBundle(makeSigner(), { revision: 9 }),
  },
  {
    name: "past its time",
    code: "ERR_BUNDLE_EXPIRED",
    bytes: await makeBundle(signer, { revision: 9, issuedAtMs: Date.now() - 2 * DAY_MS, expiresAtMs: Date.now() - 1 }),
  },
  { name: "older than the one in force", code: "ERR_BUNDLE_ROLLBACK", bytes: one },
  {
    name: "another with the revision in force",
    code: "ERR_BUNDLE_ROLLBACK",
    bytes: await makeBundle(signer, { revision: 2, spec: "{mode: observe}" }),
  },
  {
    name: "of another name",
    code: "ERR_BUNDLE_ROLLBACK",
    bytes: await makeBundle(signer, { revision: 9, name: "bank" }),
  },
  {
    name: "with a policy that does not fit the schema",
    code: "ERR_POLICY_INVALID",
    bytes: await makeBundle(signer, { revision: 9, spec: "{mode: nonsense}" }),
  },
  {
    name: "of 300 MB of zeros in 300 kB of gzip",
    code: "ERR_BUNDLE_TOO_LARGE",
    bytes: gzipSync(Buffer.alloc(300 * 1024 * 1024), { level: 9 }),
  },
];

for (const { name, code, bytes } of bad) {
  t.test(`a bundle ${name} is refused, told once, and the last good one stays`, async (t) => {
    const scene = keeperScene({ trust: signer.trust });
    await offer(scene, two);
    for (let poll = 0; poll < 3; poll++) t.match(await offer(scene, bytes), { kind: "refused", error: { code } });
    t.equal(scene.current.get().revision, "shop:2");
    t.equal(scene.told.length, 2, "one message for three polls");
    t.match(scene.told[1], new RegExp(`^refused ${code} b`));
    t.equal(scene.counted.filter((what) => what === `refused ${code}`).length, 3, "all of them are counted");
    t.match(scene.keeper.status(), { bundle: { revision: 2 }, refusal: { error: { code } } });
    t.match(await offer(scene, three), { kind: "in_force" }, "the next good one is taken");
    t.equal(scene.keeper.status().refusal, undefined);
  });
}

t.test("a source that flips between two revisions is told of once", async (t) => {
  const scene = keeperScene({ trust: signer.trust });
  for (let poll = 0; poll < 20; poll++) await offer(scene, poll % 2 === 0 ? one : two);
  t.same(
    scene.told.map((text) => text.split(" ").slice(0, 3).join(" ")),
    ["in force p1", "in force p2", "refused ERR_BUNDLE_ROLLBACK b:", "settled"],
  );
  t.equal(scene.current.get().revision, "shop:2");
});

t.test("a refusal that still holds after an hour is told again", async (t) => {
  const scene = keeperScene({ trust: signer.trust });
  await offer(scene, two);
  await offer(scene, one);
  scene.clock.monotonicMs += 3_599_999;
  await offer(scene, one);
  t.equal(scene.told.length, 2);
  scene.clock.monotonicMs += 1;
  await offer(scene, one);
  t.equal(scene.told.length, 3);
});

t.test("unsigned policy is refused once keys are configured, also when a loader lets it through", async (t) => {
  const folder = t.testdir({ "policy.yaml": "apiVersion: sallyport.dev/v1\nkind: Policy\nmetadata: {name: p}\n" });
  const path = { kind: "path", path: `${folder}/policy.yaml` } as const;
  const strict = keeperScene({ trust: signer.trust });
  t.match(await strict.keeper.offer(path, { from: "f" }), { kind: "refused", error: { code: "ERR_BUNDLE_SIGNATURE" } });
  const { policy } = keeperScene().current.get() && { policy: keeperScene().current.get() };
  const lax = keeperScene({
    trust: signer.trust,
    loader: {
      load: async () => ({
        ok: true,
        policy,
        files: [],
        digest: "d",
        bundle: undefined,
        trust: undefined,
        warnings: [],
        passedOver: [],
      }),
    },
  });
  t.match(await lax.keeper.offer(path, { from: "f" }), { kind: "refused", error: { code: "ERR_BUNDLE_SIGNATURE" } });
  t.notOk(lax.keeper.isInForce);
});

t.test("a loader that throws is a refusal, and the next offer is taken", async (t) => {
  let throws = true;
  const inner = keeperScene({ trust: signer.trust });
  const scene = keeperScene({
    trust: signer.trust,
    loader: {
      load: async (origin, options) => {
        if (throws) throw new TypeError("secret");
        const { loadBytes } = await import("../../../src/bundle/load.ts");
        if (origin.kind === "path") throw new RangeError("bytes only");
        return loadBytes(origin.label, origin.bytes, options);
      },
    },
  });
  t.match(await offer(scene, one), {
    kind: "refused",
    error: { code: "ERR_POLICY_UNREADABLE", message: "b: could not be loaded: TypeError" },
  });
  throws = false;
  t.match(await offer(scene, one), { kind: "in_force" });
  await inner.keeper.close();
});

t.test("keys rotated while this sidecar was away lead on from the old ones", async (t) => {
  const second = await rotate(signer);
  const third = await rotate(second.next);
  const roots = [second.root, third.root];
  const scene = keeperScene({ trust: signer.trust });
  await offer(scene, one);
  t.match(await offer(scene, await makeBundle(third.next, { revision: 5, roots })), { kind: "in_force" });
  t.match(await offer(scene, await makeBundle(signer, { revision: 6 })), {
    kind: "refused",
    error: { code: "ERR_BUNDLE_SIGNATURE" },
  });
  t.match(
    await offer(scene, await makeBundle(third.next, { revision: 7, roots: [third.root] })),
    { kind: "in_force" },
    "roots that are behind are not needed",
  );
});

t.test("freshness: confirmed lately, silent for too long, past its time", async (t) => {
  const nowMs = 1_800_000_000_000;
  const scene = keeperScene({ trust: signer.trust, staleAfterMs: 180_000, nowMs });
  const { keeper, clock } = scene;
  t.equal(keeper.freshness(), "stale", "nothing is in force");
  await offer(scene, await makeBundle(signer, { revision: 1, issuedAtMs: nowMs, expiresAtMs: nowMs + DAY_MS }));
  t.equal(keeper.freshness(), "fresh");
  clock.monotonicMs += 180_000;
  t.equal(keeper.freshness(), "fresh", "at the bound");
  clock.monotonicMs += 1;
  t.equal(keeper.freshness(), "stale", "beyond it");
  keeper.failed(new OperatingError("ERR_BUNDLE_UNREACHABLE", "down"));
  await offer(scene, Buffer.from("junk"));
  t.equal(keeper.freshness(), "stale", "what is refused confirms nothing");
  keeper.confirmed();
  t.equal(keeper.freshness(), "fresh");
  clock.nowMs += DAY_MS - 1;
  t.equal(keeper.freshness(), "fresh", "a step of the clock makes nothing stale");
  clock.nowMs += 1;
  t.equal(keeper.freshness(), "expired", "at its end");
  keeper.confirmed();
  t.equal(keeper.freshness(), "expired", "confirming does not lengthen it");
});

t.test("a clock that is a day ahead refuses what is new, keeps what is good, and recovers", async (t) => {
  const nowMs = 1_800_000_000_000;
  const scene = keeperScene({ trust: signer.trust, nowMs });
  const short = (revision: number) =>
    makeBundle(signer, { revision, issuedAtMs: nowMs, expiresAtMs: nowMs + DAY_MS / 2 });
  await offer(scene, await short(1));
  scene.clock.nowMs += DAY_MS;
  t.match(await offer(scene, await short(2)), { kind: "refused", error: { code: "ERR_BUNDLE_EXPIRED" } });
  t.equal(scene.current.get().revision, "shop:1");
  t.equal(scene.keeper.freshness(), "expired");
  scene.clock.nowMs -= DAY_MS;
  t.match(await offer(scene, await short(2)), { kind: "in_force" });
});

t.test("a clock that is a day behind takes the bundle, with a word", async (t) => {
  const nowMs = 1_800_000_000_000;
  const scene = keeperScene({ trust: signer.trust, nowMs: nowMs - DAY_MS });
  t.match(await offer(scene, await makeBundle(signer, { revision: 1, issuedAtMs: nowMs })), { kind: "in_force" });
  t.match(scene.told[1], /^warned .*one of the two clocks is wrong/);
});

t.test("a source that does not answer is told once, and told when it answers again", async (t) => {
  const scene = keeperScene({ trust: signer.trust });
  await offer(scene, one);
  const down = new OperatingError("ERR_BUNDLE_UNREACHABLE", "https://b: expected status 200 or 304, got 500");
  for (let poll = 0; poll < 5; poll++) scene.keeper.failed(down);
  t.match(scene.keeper.status(), { failure: { code: "ERR_BUNDLE_UNREACHABLE" }, bundle: { revision: 1 } });
  scene.keeper.confirmed();
  scene.keeper.failed(down);
  scene.keeper.confirmed();
  t.same(scene.told, ["in force p1", `unreachable ${down.message}`, "recovered"], "flapping does not flood");
  t.equal(scene.counted.filter((what) => what === "failed ERR_BUNDLE_UNREACHABLE").length, 6);
});

t.test("the last good bundle is verified again, and put in force even past its time", async (t) => {
  const old = await makeBundle(signer, {
    revision: 4,
    issuedAtMs: Date.now() - 2 * DAY_MS,
    expiresAtMs: Date.now() - 1,
  });
  const scene = keeperScene({ trust: signer.trust });
  t.ok(await scene.keeper.restore(old, "last-good.bundle"));
  t.match(scene.keeper.status(), { bundle: { revision: 4 }, freshness: "expired", confirmedAtMs: undefined });
  const torn = keeperScene({ trust: signer.trust });
  t.notOk(await torn.keeper.restore(old.subarray(0, 90), "last-good.bundle"));
  t.match(torn.told, [/^refused ERR_BUNDLE_INVALID/]);
  t.match(await offer(torn, one), { kind: "in_force" }, "the source still counts");
});

t.test("offers are taken one at a time, and none after closing", async (t) => {
  const scene = keeperScene({ trust: signer.trust });
  const results = await Promise.all([offer(scene, one), offer(scene, two), offer(scene, one)]);
  t.same(
    results.map(({ kind }) => kind),
    ["in_force", "in_force", "refused"],
  );
  await scene.keeper.close();
  t.match(await offer(scene, three), { kind: "unchanged" });
  t.equal(scene.current.get().revision, "shop:2");
});
