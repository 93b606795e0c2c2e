import t from "tap";
import { toEpochMs } from "../../src/model/units.ts";
import { SESSION_IDLE_MS, SessionStore } from "../../src/sessions/store.ts";

const at = (ms: number) => toEpochMs(1_700_000_000_000 + ms);

t.test("a session is over after an idle hour; its standing with an answered challenge is not", async (t) => {
  const store = new SessionStore(10);
  const session = store.open("origin", "p", "c", at(0));
  session.standing.dischargedUntilMs = at(12 * SESSION_IDLE_MS);
  store.keep(session);
  t.equal(store.open("origin", "p", "c", at(SESSION_IDLE_MS - 1)), session);
  const later = store.open("origin", "p", "c", at(SESSION_IDLE_MS));
  t.not(later, session);
  t.equal(later.standing, session.standing);
});

t.test("credentials of one principal at one origin share a standing and nothing else", async (t) => {
  const store = new SessionStore(10);
  const one = store.open("origin", "p", "c1", at(0));
  store.keep(one);
  const two = store.open("origin", "p", "c2", at(1));
  t.equal(two.standing, one.standing);
  t.not(two.gathered, one.gathered);
});

t.test("a flood of sessions stays within the bound and pushes out calm ones before a suspect", async (t) => {
  const store = new SessionStore(50);
  const suspect = store.open("suspect", "p", "c", at(0));
  suspect.gathered.set("usage.route", { all: 5, fast: 5, slow: 5, atMs: at(0), seen: "", expected: "" });
  store.keep(suspect);
  for (let i = 0; i < 60; i++) {
    const other = store.open(`origin-${i}`, "p", "c", at(i));
    store.keep(other);
  }
  t.equal(store.size, 50);
  t.equal(store.open("suspect", "p", "c", at(100)), suspect);
});

t.test("forgetting a principal ends its sessions and nobody else's", async (t) => {
  const store = new SessionStore(10);
  store.keep(store.open("o1", "p", "c1", at(0)));
  store.keep(store.open("o2", "q", "c2", at(0)));
  store.forget("p");
  t.equal(store.size, 1);
});
