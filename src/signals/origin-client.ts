/** Reads how new the client software is for the principal: TLS fingerprint and user agent. */

import { HABIT, NOVELTY_AT, type NoveltyName } from "../baseline/baseline.ts";
import { SETTLE_WINDOWS } from "../baseline/habit.ts";
import type { Share } from "../baseline/novelty.ts";
import { HOUR_MS } from "../model/units.ts";
import type { Reading } from "../model/verdict.ts";
import { atNewAddress } from "./origin-address.ts";
import { absent, bitsOf, NOTHING, present, type Signal, type SignalContext } from "./signal.ts";

/** How a thief's client relates to the principal's: the same, the same library otherwise set up, or another. */
const THIEF = { same: 0.35, variant: 0.15, other: 0.5 };

export const originFingerprint: Signal = {
  name: "origin.fingerprint",
  summary:
    "The TLS fingerprint is new for the principal; another cipher list (JA4's middle part: another TLS library) weighs more than other extensions.",
  gathering: "hold",
  halfLifeMs: HOUR_MS / 4,
  capBits: 16,
  discharged: true,
  cause: ({ origin }) => origin.fingerprint ?? "",
  read: (context) => {
    const { baseline, origin, population, session } = context;
    if (origin.fingerprint === undefined) return absent("no TLS fingerprint");
    if (baseline === undefined) return absent("no baseline yet");
    if (session.fingerprint === origin.fingerprint) return NOTHING;
    return readClient(context, {
      feature: "fingerprint",
      value: origin.fingerprint,
      habit: HABIT.fingerprint,
      coarse: origin.cipher ?? origin.fingerprint,
      coarseHabit: HABIT.cipher,
      coarseShare: population.cipherGivenFingerprint,
      atNewAddressShare: population.fingerprintAtNewAddress,
      words: ["new TLS library", "new TLS settings"],
    });
  },
};

export const originAgent: Signal = {
  name: "origin.agent",
  summary: "The user agent is new for the principal; another product weighs more than another version.",
  gathering: "hold",
  halfLifeMs: HOUR_MS / 4,
  capBits: 16,
  discharged: true,
  cause: ({ origin }) => origin.agent ?? "",
  read: (context) => {
    const { baseline, origin, population, session, facts } = context;
    if (facts.protocol === "tcp") return absent("raw TCP has no user agent");
    if (baseline === undefined) return absent("no baseline yet");
    const agent = origin.agent ?? "none";
    if (session.agent === agent) return NOTHING;
    return readClient(context, {
      feature: "agent",
      value: agent,
      habit: HABIT.agent,
      coarse: origin.product ?? "none",
      coarseHabit: HABIT.product,
      coarseShare: population.productGivenAgent,
      atNewAddressShare: population.agentAtNewAddress,
      words: ["new product", "new version"],
    });
  },
};

interface ClientFeature {
  readonly feature: Extract<NoveltyName, "fingerprint" | "agent">;
  readonly value: string;
  readonly habit: number;
  readonly coarse: string;
  readonly coarseHabit: number;
  readonly coarseShare: Share;
  readonly atNewAddressShare: Share;
  readonly words: readonly [string, string];
}

function readClient(context: SignalContext, feature: ClientFeature): Reading {
  const { population, baseline, commonCause } = context;
  if (baseline === undefined) return absent("no baseline yet");
  const { habits, figures } = baseline;
  if (habits.size(feature.habit) === 0) return absent("no habit yet");
  const windows = habits.windowsOf(feature.habit, feature.value);
  if (windows >= SETTLE_WINDOWS) {
    // The same software at a new address is what an honest move looks like, and a careful thief.
    return atNewAddress(context) ? present(bitsOf(THIEF.same, 0.95), "usual client", "") : NOTHING;
  }
  const unsettled = 1 - windows / SETTLE_WINDOWS;
  const curve = population.curves[feature.feature];
  const alone = curve.chance(figures, NOVELTY_AT[feature.feature]);
  // At a new address other software is less surprising (a deploy brings both), by as much as was seen.
  let ordinary = atNewAddress(context) ? Math.max(alone, feature.atNewAddressShare.value()) : alone;
  ordinary = Math.max(ordinary, commonCause(`origin.${feature.feature}`, feature.value));
  const other = !habits.has(feature.coarseHabit, feature.coarse);
  if (other) ordinary *= feature.coarseShare.value();
  const bits = bitsOf(other ? THIEF.other : THIEF.variant, ordinary) * unsettled;
  return present(
    Math.max(0, bits),
    `${feature.words[other ? 0 : 1]} ${feature.value}`,
    habits.top(feature.habit, 2).join(", "),
  );
}
