import t from "tap";
import { CommonCause } from "../../src/check/common-cause.ts";

const NOW = Date.UTC(2026, 0, 5, 12);
const MINUTE = 60_000;

function atWork(principal: string): { readonly principal: string; activeSlot: number } {
  return { principal, activeSlot: 0 };
}

t.test("the share is that of all who are at work, ten thousand of them too", async (t) => {
  const causes = new CommonCause();
  for (let i = 0; i < 10_000; i++) causes.note(atWork(`p${i}`), i % 2 === 0 ? ["origin.address"] : [], NOW + i);
  const end = NOW + 10_000;
  t.match(causes.share("origin.address", "p1", end).toFixed(2), "0.50", "one that stayed");
  t.match(causes.share("origin.address", "p2", end).toFixed(2), "0.50", "one that moved counts itself out");
  t.equal(causes.peek("origin.address", "p1", end), causes.share("origin.address", "p1", end));
  t.equal(causes.share("origin.address", "p1", end + 11 * MINUTE), 0, "old news");
});

t.test("one session's work is noted every half minute, and its novelties each time", async (t) => {
  const causes = new CommonCause();
  const sessions = Array.from({ length: 10 }, (_, i) => atWork(`p${i}`));
  for (const session of sessions) causes.note(session, [], NOW);
  for (const session of sessions) causes.note(session, ["usage.rate"], NOW + 1);
  t.match(causes.share("usage.rate", "other", NOW + 2).toFixed(2), (10 / 14).toFixed(2));
  for (let minute = 1; minute <= 9; minute++) {
    for (const session of sessions) causes.note(session, [], NOW + minute * MINUTE);
  }
  t.match(
    causes.share("usage.rate", "other", NOW + 10 * MINUTE).toFixed(2),
    (10 / 14).toFixed(2),
    "all are still at work",
  );
});

t.test("however many principals bring however many novelties, what is kept is bounded, the latest first", async (t) => {
  const causes = new CommonCause();
  const signals = Array.from({ length: 20 }, (_, i) => `signal-${i}`);
  for (const signal of signals) {
    for (let i = 0; i < 20_000; i++) causes.note(atWork(`p${i}`), [signal], NOW);
  }
  t.equal(causes.share("signal-0", "other", NOW), 0);
  t.ok(causes.share("signal-19", "other", NOW) > 0.99);
  const kept = signals.filter((signal) => causes.share(signal, "other", NOW) > 0);
  t.same(kept, signals.slice(-16), "262,144 principals of all novelties");
});
