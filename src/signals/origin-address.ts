/** Reads how new a source address is for the principal: address, network, block, country. */

import { HABIT, NOVELTY_AT } from "../baseline/baseline.ts";
import { SETTLE_WINDOWS } from "../baseline/habit.ts";
import { HOUR_MS } from "../model/units.ts";
import { absent, bitsOf, NOTHING, present, type Signal, type SignalContext } from "./signal.ts";

/**
 * Where thieves are: at an address of the principal (in its pod, behind its gateway), in its network, its block, or
 * anywhere. Round figures; only their order matters, since the rarity for the principal makes nearly all the evidence.
 */
const THIEF = { known: 0.2, network: 0.1, block: 0.15, elsewhere: 0.55 };

/**
 * Most that an address inside a block of the principal's own can say by itself: not enough for a challenge at the
 * shipped thresholds. Pods, gateways and providers' pools move; whoever steals in there shows by something else as well.
 */
const SAME_BLOCK_BITS_MAX = 7;

export const originAddress: Signal = {
  name: "origin.address",
  summary:
    "The source address is new for the principal: how rare that is, is learned (pooled, then per principal), and a new network, block (ASN) or country makes it rarer.",
  gathering: "hold",
  halfLifeMs: HOUR_MS / 4,
  capBits: 20,
  discharged: true,
  cause: ({ origin }) => origin.network ?? "",
  read: ({ baseline, population, origin, session, commonCause }) => {
    if (origin.address === undefined) return absent("no source address");
    if (baseline === undefined) return absent("no baseline yet");
    if (session.requests > 0) return NOTHING;
    const { habits } = baseline;
    const windows = habits.windowsOf(HABIT.address, origin.address);
    if (windows >= SETTLE_WINDOWS) return NOTHING;
    const unsettled = 1 - windows / SETTLE_WINDOWS;
    let ordinary = Math.max(
      population.curves.address.chance(baseline.figures, NOVELTY_AT.address),
      commonCause("origin.address", origin.network ?? ""),
    );
    let most = SAME_BLOCK_BITS_MAX;
    let thief = THIEF.network;
    let what = "new address";
    if (origin.network !== undefined && !habits.has(HABIT.network, origin.network)) {
      ordinary *= population.networkGivenAddress.value();
      thief = THIEF.block;
      what = "new network";
      if (origin.block !== undefined && !habits.has(HABIT.block, origin.block)) {
        ordinary *= population.blockGivenNetwork.value();
        thief = THIEF.elsewhere;
        what = "new block";
        most = Number.POSITIVE_INFINITY;
        if (origin.country !== undefined && !habits.has(HABIT.country, origin.country)) {
          ordinary *= population.countryGivenBlock.value();
          what = `new country ${origin.country}`;
        }
      }
    }
    const bits = bitsOf(thief, ordinary) * unsettled;
    return present(
      Math.max(0, Math.min(most, bits)),
      `${what} ${origin.address}`,
      habits.top(HABIT.address, 3).join(", "),
    );
  },
};

/** Whether the address is not yet an ordinary one of the principal. */
export function atNewAddress({ baseline, origin }: SignalContext): boolean {
  if (baseline === undefined || origin.address === undefined) return false;
  return !baseline.habits.isSettled(HABIT.address, origin.address);
}
