/** Tests that the last good bundle on disk is usable after a crash at any moment, and that a bad disk stops nothing. */

import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmdirSync, writeFileSync } from "node:fs";
import { rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { PolicyState, type StateDisk } from "../../../src/bundle/sync/state.ts";
import { readTrust, trustFor } from "../../../src/bundle/trust.ts";
import { skipUnless } from "../../support/skip.ts";
import { makeBundle, makeSigner, rotate } from "./bundles.ts";
import { keeperScene } from "./scene.ts";

const CAN_MOUNT = skipUnless(
  process.getuid?.() === 0 && process.platform === "linux",
  "root on Linux, to make a small file system",
  { obtainable: false },
);
const BYTES_MAX = 1_000_000;
const first = makeSigner();
const second = await rotate(first);
const one = await makeBundle(first, { revision: 1 });
const two = await makeBundle(second.next, { revision: 2, roots: [second.root] });

/** A disk that ends at its n-th step: half a file written, or nothing renamed. */
function crashing(step: number): StateDisk {
  let steps = 0;
  const crash = (before: () => void): void => {
    if (++steps !== step) return;
    before();
    throw new Error("killed");
  };
  return {
    writeSynced: async (path, bytes) => {
      crash(() => writeFileSync(path, bytes.subarray(0, bytes.length / 2)));
      await writeFile(path, bytes);
    },
    replace: async (from, to) => {
      crash(() => {});
      renameSync(from, to);
    },
  };
}

const offer = (bytes: Uint8Array) => [{ kind: "bytes", label: "b", bytes } as const, { from: "b" }] as const;

for (const { step, want } of [
  { step: 1, want: 1 }, // the bundle half written beside
  { step: 2, want: 1 }, // written, not renamed
  { step: 3, want: 2 }, // the new bundle, its trust half written beside
  { step: 4, want: 2 }, // the new bundle, the old trust
  { step: 5, want: 2 }, // all done
]) {
  t.test(`killed at step ${step} of a write across a change of keys, revision ${want} is there after it`, async (t) => {
    const folder = t.testdir({});
    const before = keeperScene({ trust: first.trust, state: new PolicyState(folder) });
    await before.keeper.offer(...offer(one));
    await before.keeper.close();
    const dying = keeperScene({
      trust: trustFor(first.root, undefined),
      state: new PolicyState(folder, crashing(step)),
    });
    await dying.keeper.offer(...offer(two));
    await dying.keeper.close();
    t.equal(dying.current.get().revision, "shop:2", "in force all the same");

    const state = new PolicyState(folder);
    const kept = await state.read(BYTES_MAX);
    const trust = trustFor(first.root, readTrust(kept.trust ?? "", state.trustPath));
    const after = keeperScene({ trust, state });
    t.ok(await after.keeper.restore(kept.bundle ?? new Uint8Array(), state.bundlePath));
    t.equal(after.current.get().revision, `shop:${want}`);
    t.match(await after.keeper.offer(...offer(two)), { kind: want === 2 ? "unchanged" : "in_force" });
    await after.keeper.close();
    const now = readTrust((await state.read(BYTES_MAX)).trust ?? "", state.trustPath);
    t.match(now, { root: { version: 2 }, accepted: { revision: 2 } }, "trust has caught up");
  });
}

t.test("an older bundle is refused after a restart too", async (t) => {
  const state = new PolicyState(t.testdir({}));
  const before = keeperScene({ trust: first.trust, state });
  await before.keeper.offer(...offer(await makeBundle(first, { revision: 3 })));
  await before.keeper.close();
  const { trust } = await state.read(BYTES_MAX);
  const after = keeperScene({ trust: trustFor(first.root, readTrust(trust ?? "", "trust.json")), state });
  t.match(await after.keeper.offer(...offer(one)), { kind: "refused", error: { code: "ERR_BUNDLE_ROLLBACK" } });
});

t.test("a state folder that cannot be written stops nothing, is told once, counted, and tried again", async (t) => {
  const folder = t.testdir({ policy: "a file where the folder belongs" });
  const scene = keeperScene({ trust: first.trust, state: new PolicyState(folder) });
  t.match(await scene.keeper.offer(...offer(one)), { kind: "in_force" });
  await scene.keeper.saveAgain();
  await scene.keeper.saveAgain();
  t.same(scene.told, ["in force p1", "unsaved ERR_STATE_UNWRITABLE"]);
  t.equal(scene.counted.filter((what) => what === "state failed").length, 3);
  t.same(Buffer.from((await scene.keeper.held()) ?? []), Buffer.from(one), "still at hand for deltas");
  await rm(join(folder, "policy"));
  await scene.keeper.saveAgain();
  t.same(scene.told.slice(2), ["saved"]);
  t.ok(existsSync(join(folder, "policy", "last-good.bundle")));
});

t.test("a full disk keeps the bundle before, and the new one is in force", CAN_MOUNT, async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "sallyport-full-"));
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]);
  t.teardown(() => {
    execFileSync("umount", [folder]);
    rmdirSync(folder);
  });
  const state = new PolicyState(folder);
  const scene = keeperScene({ trust: first.trust, state });
  await scene.keeper.offer(...offer(one));
  await scene.keeper.saveAgain();
  writeFileSync(join(folder, "ballast"), Buffer.alloc(32_768));
  const noise = Array.from({ length: 4_000 }, (_, line) => `# ${(line * 7_919) % 10_007} ${line}`).join("\n");
  const text = `apiVersion: sallyport.dev/v1\nkind: Policy\nmetadata: { name: big }\n${noise}\n`;
  t.match(await scene.keeper.offer(...offer(await makeBundle(first, { revision: 2, text }))), { kind: "in_force" });
  await scene.keeper.saveAgain();
  t.match(scene.told, ["in force p1", "in force big", "unsaved ERR_STATE_UNWRITABLE"]);
  t.same(Buffer.from((await state.read(BYTES_MAX)).bundle ?? []), Buffer.from(one), "whole");
  execFileSync("mount", ["-o", "remount,ro", folder]);
  await scene.keeper.saveAgain();
  t.equal(scene.told.length, 3, "read-only: not told again");
  execFileSync("mount", ["-o", "remount,rw,size=1m", folder]);
  await scene.keeper.saveAgain();
  t.equal(scene.told.at(-1), "saved");
  await scene.keeper.close();
});

t.test("a state file that is larger than it may be, or a folder, is an error with a code", async (t) => {
  const state = new PolicyState(t.testdir({ policy: { "last-good.bundle": "x".repeat(11) } }));
  await t.rejects(state.read(10), { code: "ERR_STATE_INVALID" });
  const odd = new PolicyState(t.testdir({}));
  mkdirSync(odd.bundlePath, { recursive: true });
  await t.rejects(odd.read(BYTES_MAX), { code: "ERR_STATE_INVALID" });
});
