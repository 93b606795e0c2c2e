/** Reads whether a caller asks for what it never asked for: routes, destinations, a service it never called. */

import { SETTLE_WINDOWS } from "../baseline/habit.ts";
import { HOUR_MS } from "../model/units.ts";
import { atNewAddress } from "./origin-address.ts";
import { absent, bitsOf, NOTHING, present, type Signal } from "./signal.ts";

/** Share of a thief's requests that go where the victim never went, and how often the next one does once one did. */
const THIEF_NEW_ROUTE = 0.4;
const THIEF_NEXT_NEW_ROUTE = 0.9;

/** Most that one new route can say: services grow new calls, so it takes a second strange thing to be worth a challenge. */
const ONE_ROUTE_BITS_MAX = 8;

export const usageRoute: Signal = {
  name: "usage.route",
  summary:
    "The method and route template are new for the principal; new to everybody here weighs more. New routes come in lumps, so the next one right after weighs less, by as much as was learned.",
  gathering: "sum",
  halfLifeMs: HOUR_MS / 2,
  capBits: 20,
  discharged: false,
  cause: ({ route }) => route,
  read: (context) => {
    const { baseline, population, route, session, facts, commonCause } = context;
    if (facts.protocol === "tcp") return absent("raw TCP has no routes");
    if (baseline === undefined) return absent("no baseline yet");
    if (session.routes.has(route)) return NOTHING;
    const entry = baseline.habits.route.find(route);
    const chance = population.curves.route.chance(baseline.novelty.route);
    // A deploy brings new addresses and new calls together, by as much as was seen.
    const deployed = atNewAddress(context) ? population.routeAtNewAddress.value() : 0;
    const lumped = Math.max(chance, deployed, session.lastRouteNew ? population.routeAfterRoute.value() : 0);
    const thief = session.lastRouteNew ? THIEF_NEXT_NEW_ROUTE : THIEF_NEW_ROUTE;
    const ordinary = Math.min(0.95, Math.max(lumped, commonCause("usage.route", route)));
    if (entry !== undefined) {
      // A known route speaks for the principal, by a little; a half-settled one says nothing either way.
      return entry.windows >= SETTLE_WINDOWS ? present(bitsOf(1 - thief, 1 - ordinary), route, "") : NOTHING;
    }
    const unknown = population.routes.find(route) === undefined;
    const step = unknown ? population.curves.unknown.chance(baseline.novelty.unknown) : 1;
    const bits = bitsOf(thief * (unknown ? 0.5 : 1), ordinary * step);
    return present(
      Math.max(0, Math.min(ONE_ROUTE_BITS_MAX, bits)),
      `${unknown ? "unknown" : "new"} route ${route}`,
      usual(baseline.habits.route),
    );
  },
};

export const usageDestination: Signal = {
  name: "usage.destination",
  summary: "The principal asks for a destination behind this Envoy that it never asked for.",
  gathering: "sum",
  halfLifeMs: HOUR_MS,
  capBits: 14,
  discharged: false,
  cause: ({ facts }) => facts.destination,
  read: ({ baseline, population, facts, commonCause }) => {
    if (baseline === undefined) return absent("no baseline yet");
    const { destination } = baseline.habits;
    if (destination.entries.length === 0 || destination.find(facts.destination) !== undefined) return NOTHING;
    const ordinary = Math.max(
      population.curves.destination.chance(baseline.novelty.destination),
      commonCause("usage.destination", facts.destination),
    );
    return present(Math.max(0, bitsOf(0.3, ordinary)), `destination ${facts.destination}`, usual(destination));
  },
};

export const usageNewCaller: Signal = {
  name: "usage.new_caller",
  summary:
    "A principal that never called this service before, once the service has history: lateral movement looks like this, and so does a new client, so alone it stays weak.",
  gathering: "hold",
  halfLifeMs: HOUR_MS,
  capBits: 12,
  discharged: false,
  cause: () => "",
  read: ({ baseline, population, identity, commonCause }) => {
    if (!identity.proven) return absent("nothing proven");
    if (baseline !== undefined) return NOTHING;
    const ordinary = Math.max(population.newCaller.hazard(population.requests), commonCause("usage.new_caller", ""));
    return present(Math.max(0, bitsOf(0.3, Math.min(1, ordinary))), `first call by ${identity.principal.name}`, "");
  },
};

function usual(habit: { top(count: number): readonly string[] }): string {
  return habit.top(3).join(", ");
}
