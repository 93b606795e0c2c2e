import fc from "fast-check";
import t from "tap";
import { toEpochMs } from "../../src/model/units.ts";
import { PlacedTable } from "../../src/sessions/placed-table.ts";
import { type Place, RecentUses, RouteSet } from "../../src/sessions/session.ts";
import { SESSION_IDLE_MS, SessionStore } from "../../src/sessions/store.ts";

const placeOf = (address: string): Place => ({ address, cipher: "f57a46bbacb6", product: undefined });
const ORIGIN = placeOf("origin");
const SUSPECT = placeOf("suspect");

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
    const other = store.open(placeOf(`origin-${i}`), "p", "c", at(i));
    store.keep(other);
  }
  t.equal(store.size, 50);
  t.equal(store.open(SUSPECT, "p", "c", at(100)), suspect);
});

t.test("forgetting a principal ends its sessions and nobody else's", async (t) => {
  const store = new SessionStore(10);
  store.keep(store.open(placeOf("o1"), "p", "c1", at(0)));
  store.keep(store.open(placeOf("o2"), "q", "c2", at(0)));
  store.forget("p");
  t.equal(store.size, 1);
});

t.test("a session is found at its place again, however that is told, and not under another credential", async (t) => {
  const store = new SessionStore(10);
  const session = store.open(ORIGIN, "p", "c", at(0));
  store.keep(session);
  t.equal(store.open(ORIGIN, "p", "c", at(1)), session);
  t.equal(store.open(placeOf("origin"), "p", "c", at(2)), session, "a place that is told anew");
  t.not(store.open(ORIGIN, "p", "other", at(3)), session);
  t.not(store.open(ORIGIN, "q", "c", at(3)), session);
  store.forget("p");
  t.not(store.open(ORIGIN, "p", "c", at(4)), session, "a forgotten one is not found");
});

t.test("a credential remembers its latest six places and principals, the most recent last", async (t) => {
  const store = new SessionStore(10);
  for (const [i, place] of ["a", "b", "c", "d", "e", "f", "g", "b"].entries()) {
    const session = store.open(placeOf(place), `of ${place}`, "c", at(i));
    store.keep(session);
    store.touchCredential(session, place, undefined, at(i));
  }
  const use = store.credential("c");
  t.equal(use?.origins.values().join(), "c,d,e,f,g,b");
  t.equal(use?.principals.values().join(), "of c,of d,of e,of f,of g,of b");
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

t.test(
  "a credential used at many places has a session at each, and forgetting them leaves nothing behind",
  async (t) => {
    const store = new SessionStore(5_000);
    const places = Array.from({ length: 1_000 }, (_, i) => placeOf(`10.0.${i >> 8}.${i & 255}`));
    const opened = places.map((place, i) => {
      const session = store.open(place, `p${i % 3}`, "none", at(i));
      store.keep(session);
      return session;
    });
    t.equal(store.size, 1_000);
    for (const [i, { address }] of places.entries()) {
      t.equal(store.open(placeOf(address as string), `p${i % 3}`, "none", at(2_000)), opened[i]);
    }
    for (const name of ["p0", "p1", "p2"]) store.forget(name);
    t.equal(store.size, 0);
    t.not(store.open(ORIGIN, "p0", "none", at(2_000)).standing, opened[0]?.standing);
  },
);

t.test("any part of a place that differs makes another place of it", async (t) => {
  const store = new SessionStore(10);
  const place = { address: "a", cipher: "c", product: "p" };
  const session = store.open(place, "p", "c", at(0));
  store.keep(session);
  for (const part of ["address", "cipher", "product"] as const) {
    for (const value of ["other", undefined]) {
      t.not(store.open({ ...place, [part]: value }, "p", "c", at(1)), session, `${part} ${value}`);
    }
  }
  t.equal(store.open({ ...place }, "p", "c", at(1)), session);
});

t.test("entries of one text are told apart by principal and place, as a table by all three would", async () => {
  const names = fc.constantFrom("a", "b");
  const entry = fc.record({ text: names, principal: names, place: fc.constantFrom(...["x", "y", "z"].map(placeOf)) });
  const change = fc.record({ entry, removes: fc.boolean() });
  fc.assert(
    fc.property(fc.array(change, { maxLength: 60 }), (changes) => {
      const table = new PlacedTable<{ readonly principal: string; readonly place: Place }>();
      const model = new Map<string, object>();
      const keyOf = ({ text, principal, place }: (typeof changes)[number]["entry"]) =>
        [text, principal, place.address].join();
      return changes.every(({ entry: one, removes }) => {
        if (removes) {
          table.delete(one.text, one);
          model.delete(keyOf(one));
        } else {
          table.set(one.text, one);
          model.set(keyOf(one), one);
        }
        const found = changes.every(
          ({ entry: { text, principal, place }, entry: any }) =>
            table.get(text, principal, { ...place }) === model.get(keyOf(any)),
        );
        return found && table.size === model.size;
      });
    }),
  );
});

t.test("recent uses keep the latest six values in order of use, with the latest time of each", async () => {
  const uses = fc.array(fc.record({ value: fc.constantFrom(..."abcdefgh"), ms: fc.nat(50) }), { maxLength: 40 });
  fc.assert(
    fc.property(uses, fc.constantFrom(..."abc"), (all, asked) => {
      const recent = new RecentUses();
      let model: { value: string; ms: number }[] = [];
      for (const { value, ms } of all) {
        recent.note(value, at(ms));
        const before = model.find((use) => use.value === value)?.ms ?? 0;
        model = [...model.filter((use) => use.value !== value), { value, ms: Math.max(before, ms) }].slice(-6);
      }
      const other = model.find(({ value, ms }) => value !== asked && 60 - ms < 20)?.value;
      return (
        recent.values().join() === model.map(({ value }) => value).join() &&
        recent.latest === model.at(-1)?.value &&
        recent.has(asked) === model.some(({ value }) => value === asked) &&
        recent.hasOther(asked) === model.some(({ value }) => value !== asked) &&
        recent.otherWithin(asked, at(60), 20) === other
      );
    }),
  );
});

t.test("a window counts each of its routes once, 64 of them at most, and its copy goes its own way", async (t) => {
  const routes = new RouteSet();
  for (let round = 0; round < 2; round++) for (let i = 0; i < 64; i++) routes.add(`GET /${i}`);
  t.equal(routes.size, 64);
  routes.add("GET /64");
  t.equal(routes.has("GET /64"), false);
  const copy = routes.copy();
  routes.clear();
  t.same([routes.size, copy.size, copy.has("GET /63")], [0, 64, true]);
});
