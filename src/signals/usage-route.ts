/** Reads whether a caller asks for what it never asked for: routes, destinations, a service it never called. */

import { type Baseline, HABIT, NOVELTY_AT } from "../baseline/baseline.ts";
import { SETTLE_WINDOWS } from "../baseline/habit.ts";
import { HOUR_MS } from "../model/units.ts";
import type { RouteNovelty } from "../sessions/session.ts";
import { atNewAddress } from "./origin-address.ts";
import { absent, bitsOf, NOTHING, present, type Signal, type SignalContext } from "./signal.ts";

/** Share of a thief's requests that go where the victim never went: to where others go, and to where nobody goes. */
const THIEF_NEW = 0.2;
/** How often a thief's next request is new in the same way as the last one, and in the other way. */
const THIEF_SAME_AGAIN = 0.7;
const THIEF_OTHER_NEXT = 0.1;

/** Most that one new route can say: services grow new calls, so it takes a second strange thing to be worth a challenge. */
const ONE_ROUTE_BITS_MAX = 8;

export const usageRoute: Signal = {
  name: "usage.route",
  summary:
    "The method and route template are new for the principal. Routes new to everybody (growth, probing) and routes that only others use (another's ways) are weighed apart, each by its learned rate and by how runs of them go on.",
  gathering: "sum",
  halfLifeMs: HOUR_MS / 2,
  capBits: 20,
  discharged: false,
  cause: ({ route }) => route,
  read: (context) => {
    const { baseline, population, route, session, facts, commonCause } = context;
    if (facts.protocol === "tcp") return absent("raw TCP has no routes");
    if (baseline === undefined) return absent("no baseline yet");
    const windows = baseline.habits.windowsOf(HABIT.route, route);
    if (session.newRoutes.includes(route)) return NOTHING;
    // A known route speaks for the principal, by a little, and never against it: before much is learned of how often new
    // routes are ordinary, that would take a cold start for a thief. A half-settled one says nothing either way.
    if (windows >= SETTLE_WINDOWS) {
      const thief = chanceOfThief("unknown", session.lastRoute) + chanceOfThief("foreign", session.lastRoute);
      const ordinary = chanceOfOwner(context, "unknown") + chanceOfOwner(context, "foreign");
      return present(Math.min(0, bitsOf(1 - thief, 1 - Math.min(0.95, ordinary))), route, "");
    }
    if (windows > 0) return NOTHING;
    const kind = population.routes.has(route) ? "foreign" : "unknown";
    const ordinary = Math.min(0.95, Math.max(chanceOfOwner(context, kind), commonCause("usage.route", route)));
    const bits = bitsOf(chanceOfThief(kind, session.lastRoute), ordinary);
    return present(
      Math.max(0, Math.min(ONE_ROUTE_BITS_MAX, bits)),
      kind === "unknown" ? `unknown route ${route}` : `route of others ${route}`,
      usual(baseline, HABIT.route),
    );
  },
};

function chanceOfThief(kind: RouteNovelty, last: RouteNovelty | undefined): number {
  if (last === undefined) return THIEF_NEW;
  return kind === last ? THIEF_SAME_AGAIN : THIEF_OTHER_NEXT;
}

/** Chance that the principal's next request is new in this way: its own rate, or more in a run or after a deploy. */
function chanceOfOwner(context: SignalContext, kind: RouteNovelty): number {
  const { baseline, population, session } = context;
  if (baseline === undefined) return 1;
  const runs = kind === "unknown" ? population.unknownRuns : population.foreignRuns;
  return Math.max(
    population.curves[kind].chance(baseline.figures, NOVELTY_AT[kind]),
    session.lastRoute === kind ? runs.again(session.routeRun) : 0,
    // A deploy brings new addresses and new calls together, by as much as was seen.
    atNewAddress(context) ? population.routeAtNewAddress.value() : 0,
  );
}

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
    const { habits } = baseline;
    if (habits.size(HABIT.destination) === 0 || habits.has(HABIT.destination, facts.destination)) return NOTHING;
    const ordinary = Math.max(
      population.curves.destination.chance(baseline.figures, NOVELTY_AT.destination),
      commonCause("usage.destination", facts.destination),
    );
    return present(
      Math.max(0, bitsOf(0.3, ordinary)),
      `destination ${facts.destination}`,
      usual(baseline, HABIT.destination),
    );
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
  read: ({ baseline, forgotten, population, identity, commonCause }) => {
    if (!identity.proven) return absent("nothing proven");
    if (baseline !== undefined) return NOTHING;
    if (forgotten) return absent("known once, and forgotten for want of room");
    const ordinary = Math.max(population.newCaller.hazard(population.requests), commonCause("usage.new_caller", ""));
    return present(Math.max(0, bitsOf(0.3, Math.min(1, ordinary))), `first call by ${identity.principal.name}`, "");
  },
};

function usual({ habits }: Baseline, habit: number): string {
  return habits.top(habit, 3).join(", ");
}
