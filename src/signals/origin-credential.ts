/** Reads whether a credential is used from more than one place: a copy is at work. */

import { NOVELTY_AT } from "../baseline/baseline.ts";
import { frailtyOf } from "../baseline/novelty.ts";
import { HOUR_MS, MINUTE_MS } from "../model/units.ts";
import { atNewAddress } from "./origin-address.ts";
import { absent, bitsOf, NOTHING, present, type Signal } from "./signal.ts";

/** Most thieves use the credential that its owner has used before. */
const THIEF_MOVES = 0.9;

/** Two places within this time count as at once. */
export const AT_ONCE_MS = 5 * MINUTE_MS;

export const credentialMoved: Signal = {
  name: "credential.moved",
  summary:
    "A credential already used from one address appears at another; for callers whose tokens stay with their pod that is rare, for shared API keys it is ordinary: both are learned.",
  gathering: "hold",
  halfLifeMs: HOUR_MS / 4,
  capBits: 16,
  discharged: true,
  cause: () => "",
  read: (context) => {
    const { baseline, credentialUse, origin, population, session, commonCause } = context;
    if (origin.address === undefined) return absent("no source address");
    if (credentialUse === undefined || baseline === undefined) return absent("first use of the credential");
    if (session.requests > 0) return NOTHING;
    const { latest, latestMs } = credentialUse.origins;
    if (latest === undefined || credentialUse.origins.has(origin.address)) return NOTHING;
    // By the principal's own rate of moving credentials, or, at a new address, by how often that comes with an old one.
    const own = population.curves.move.chance(baseline.figures, NOVELTY_AT.move);
    const ordinary = Math.max(
      atNewAddress(context)
        ? population.oldCredentialAtNewAddress.value() * frailtyOf(baseline.figures, NOVELTY_AT.move)
        : own,
      commonCause("credential.moved", ""),
    );
    const atOnce = context.facts.time - latestMs < AT_ONCE_MS;
    return present(
      Math.max(0, bitsOf(THIEF_MOVES, Math.min(0.95, ordinary))),
      `credential ${atOnce ? "at once" : "again"} at ${origin.address}`,
      `used from ${latest}`,
    );
  },
};
