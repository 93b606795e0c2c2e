import t from "tap";
import { toEpochMs } from "../../src/model/units.ts";
import { SESSION_IDLE_MS, SessionStore } from "../../src/sessions/store.ts";

const ORIGIN = { key: "origin" };
const SUSPECT = { key: "suspect" };

const at = (ms: number) => toEpochMs(1_700_000_000_000 + ms);

t.test("a session is over after an idle hour; its standing with an answered challenge is not", async (t) => {
  const store = new SessionStore(10);
  const session = store.open(ORIGIN, "p", "c", at(0));
  session.standing.dischargedUntilMs = at(12 * SESSION_IDLE_MS);
  store.keep(session);
  t.equal(store.open(ORIGIN, "p", "c", at(SESSION_IDLE_MS - 1)), session);
  const later = store.open(ORIGIN, "p", "c", at(SESSION_IDLE_MS));
  t.not(later, session);
  t.equal(later.standing, session.standing);
});

t.test("credentials of one principal at one origin share a standing and nothing else", async (t) => {
  const store = new SessionStore(10);
  const one = store.open(ORIGIN, "p", "c1", at(0));
  store.keep(one);
  const two = store.open(ORIGIN, "p", "c2", at(1));
  t.equal(two.standing, one.standing);
  t.not(two, one);
  t.not(two.windowRoutes, one.windowRoutes);
});

t.test("a flood of sessions stays within the bound and pushes out calm ones before a suspect", async (t) => {
  const store = new SessionStore(50);
  const suspect = store.open(SUSPECT, "p", "c", at(0));
  suspect.gathered = new Map([["usage.route", { all: 5, fast: 5, slow: 5, atMs: at(0), seen: "", expected: "" }]]);
  store.keep(suspect);
  for (let i = 0; i < 60; i++) {
    const other = store.open({ key: `origin-${i}` }, "p", "c", at(i));
    store.keep(other);
  }
  t.equal(store.size, 50);
  t.equal(store.open(SUSPECT, "p", "c", at(100)), suspect);
});

t.test("forgetting a principal ends its sessions and nobody else's", async (t) => {
  const store = new SessionStore(10);
  store.keep(store.open({ key: "o1" }, "p", "c1", at(0)));
  store.keep(store.open({ key: "o2" }, "q", "c2", at(0)));
  store.forget("p");
  t.equal(store.size, 1);
});

t.test(
  "a session is found at its place again, by the place or by its key, and not under another credential",
  async (t) => {
    const store = new SessionStore(10);
    const session = store.open(ORIGIN, "p", "c", at(0));
    store.keep(session);
    t.equal(store.open(ORIGIN, "p", "c", at(1)), session);
    t.equal(store.open({ key: "origin" }, "p", "c", at(2)), session, "a place that is told anew");
    t.not(store.open(ORIGIN, "p", "other", at(3)), session);
    t.not(store.open(ORIGIN, "q", "c", at(3)), session);
    store.forget("p");
    t.not(store.open(ORIGIN, "p", "c", at(4)), session, "a forgotten one is not found");
  },
);

t.test("a credential remembers its latest six places and principals, the most recent last", async (t) => {
  const store = new SessionStore(10);
  for (const [i, place] of ["a", "b", "c", "d", "e", "f", "g", "b"].entries()) {
    const session = store.open({ key: place }, `of ${place}`, "c", at(i));
    store.keep(session);
    store.touchCredential(session, place, undefined, at(i));
  }
  const use = store.credential("c");
  t.equal(use?.origins.map(({ address }) => address).join(), "c,d,e,f,g,b");
  t.equal(use?.principals.map(({ name }) => name).join(), "of c,of d,of e,of f,of g,of b");
  t.equal(use?.requests, 8);
});

t.test("the credential used longest ago is forgotten first, and is then as new", async (t) => {
  const store = new SessionStore(2);
  const first = store.open(ORIGIN, "p", "first", at(0));
  store.touchCredential(first, "a", undefined, at(0));
  for (const id of ["second", "third"])
    store.touchCredential(store.open(ORIGIN, "p", id, at(1)), "a", undefined, at(1));
  t.equal(store.credential("first"), undefined);
  t.equal(store.useOf(first), undefined);
  t.ok(store.credential("third"));
});
