/** Tests that locks outlive the process from the moment that they are set. */

import { appendFileSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import t from "tap";
import { Locks } from "../../src/check/locks.ts";
import type { LockChange } from "../../src/model/line.ts";
import type { Lock } from "../../src/model/policy.ts";
import { toEpochMs } from "../../src/model/units.ts";
import { keepLocks, LockJournal } from "../../src/server/lock-journal.ts";

const NOW = toEpochMs(Date.parse("2026-01-05T10:00:00Z"));

function folderOf(t: { teardown: (end: () => void) => void }): string {
  const folder = mkdtempSync(join(tmpdir(), "sallyport-journal-"));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

const lockOf = (id: string): Lock => ({
  id,
  scope: { principal: `spiffe://shop.example/${id}` },
  reason: "test",
  setBy: "operator",
  setAtMs: NOW,
  expiresAtMs: undefined,
});

function journaled(folder: string): Locks {
  let keep: (change: LockChange) => void = () => {};
  const table = new Locks(10_000, (change) => keep(change));
  const fail = (error: Error) => {
    throw error;
  };
  keep = keepLocks(table, new LockJournal(folder), () => NOW, fail).keep;
  return table;
}

t.test("what was locked when the process died is locked when it is back, whatever came before", async () => {
  const ids = fc.constantFrom("a", "b", "c", "d");
  const steps = fc.array(fc.record({ id: ids, add: fc.boolean(), restart: fc.boolean() }), { maxLength: 40 });
  fc.assert(
    fc.property(steps, (changes) => {
      const folder = mkdtempSync(join(tmpdir(), "sallyport-journal-"));
      try {
        let table = journaled(folder);
        const wanted = new Set<string>();
        for (const { id, add, restart } of changes) {
          if (add) table.add(lockOf(id));
          else table.remove(id);
          if (add) wanted.add(id);
          else wanted.delete(id);
          if (restart) table = journaled(folder);
        }
        const back = journaled(folder).list(NOW);
        return back.length === wanted.size && back.every(({ id }) => wanted.has(id));
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    }),
    { numRuns: 50 },
  );
});

t.test("a line that was torn by a crash is left out, and what stands before it counts", async (t) => {
  const folder = folderOf(t);
  const table = journaled(folder);
  table.add(lockOf("first"));
  table.add(lockOf("second"));
  appendFileSync(join(folder, "locks.journal"), '{"kind":"added","lock":{"id":"th');
  const read = new LockJournal(folder).read();
  t.same(
    read.locks?.map(({ id }) => id),
    ["first", "second"],
  );
  t.equal(read.unusable, 1);
});

t.test("foreign lines are counted and change nothing", async (t) => {
  const folder = folderOf(t);
  appendFileSync(
    join(folder, "locks.journal"),
    ["{}", "[]", "null", '{"kind":"added"}', '{"kind":"added","lock":{"id":"x","scope":null}}', '"text"', ""].join(
      "\n",
    ),
  );
  t.same(new LockJournal(folder).read(), { locks: [], unusable: 6 });
});

t.test("ten thousand changes of one lock leave a journal of bounded length", async (t) => {
  const folder = folderOf(t);
  const table = journaled(folder);
  for (let round = 0; round < 5_000; round++) {
    table.add(lockOf("same"));
    table.remove("same");
  }
  table.add(lockOf("last"));
  const lines = readFileSync(join(folder, "locks.journal"), "utf8").trim().split("\n");
  t.ok(lines.length <= 1_002, `${lines.length} lines`);
  t.same(
    new LockJournal(folder).read().locks?.map(({ id }) => id),
    ["last"],
  );
});

t.test("a folder that cannot be written is an operating error", async (t) => {
  const journal = new LockJournal("/proc/nowhere");
  const change: LockChange = { kind: "added", lock: lockOf("a") };
  t.throws(() => journal.append([change], () => [lockOf("a")]), { code: "ERR_STATE_UNWRITABLE" });
});

t.test("what a snapshot still has locked after it was unlocked stays unlocked", async (t) => {
  const folder = folderOf(t);
  const table = journaled(folder);
  table.add(lockOf("old"));
  table.remove("old");
  const later = new Locks(10);
  later.add(lockOf("old"));
  keepLocks(
    later,
    new LockJournal(folder),
    () => NOW,
    () => {},
  );
  t.same(later.list(NOW), []);
});

t.test("a folder without a journal leaves the table as it is", async (t) => {
  const table = new Locks(10);
  table.add(lockOf("from a snapshot"));
  keepLocks(
    table,
    new LockJournal(folderOf(t)),
    () => NOW,
    () => {},
  );
  t.equal(table.list(NOW).length, 1);
});
