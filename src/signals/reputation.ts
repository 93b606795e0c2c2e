/** Reads what lists say of the address and of the TLS fingerprint. */

import { HABIT } from "../baseline/baseline.ts";
import { absent, certain, NOTHING, present, type Signal } from "./signal.ts";

/** A list that names an address which is ordinary for this principal says little about this principal. */
const ORDINARY_SHARE = 0.25;

export const reputationAddress: Signal = {
  name: "reputation.address",
  summary:
    "The address is on a list of the policy: a `block` list denies, a `score` list adds its bits, less where the address is ordinary for the principal.",
  gathering: "now",
  halfLifeMs: 0,
  capBits: 14,
  discharged: true,
  read: ({ policy, origin, baseline }) => {
    if (origin.address === undefined) return absent("no source address");
    const hit = policy.addresses.lookup(origin.address);
    if (hit === undefined) return NOTHING;
    if (hit.action === "block") return certain("deny", `${origin.address} on ${hit.list}: ${hit.reason}`, "not listed");
    const ordinary = baseline?.habits.isSettled(HABIT.address, origin.address) === true;
    return present(
      hit.bits * (ordinary ? ORDINARY_SHARE : 1),
      `${origin.address} on ${hit.list}: ${hit.reason}`,
      "not listed",
    );
  },
};

export const reputationFingerprint: Signal = {
  name: "reputation.fingerprint",
  summary:
    "The TLS fingerprint is on a list of the policy. Popular libraries share fingerprints with attack tools, so it adds little where the fingerprint is ordinary for the principal.",
  gathering: "now",
  halfLifeMs: 0,
  capBits: 8,
  discharged: true,
  read: ({ policy, facts, origin, baseline }) => {
    if (policy.fingerprints.size === 0) return NOTHING;
    const { ja4, ja3 } = facts.tls;
    const hit =
      (ja4 === undefined ? undefined : policy.fingerprints.get(ja4)) ??
      (ja3 === undefined ? undefined : policy.fingerprints.get(ja3)) ??
      (origin.cipher === undefined ? undefined : policy.fingerprints.get(origin.cipher));
    if (hit === undefined) return NOTHING;
    const seen = `${ja4 ?? ja3} on ${hit.list}: ${hit.reason}`;
    if (hit.action === "block") return certain("deny", seen, "not listed");
    const ordinary = origin.cipher !== undefined && baseline?.habits.has(HABIT.cipher, origin.cipher) === true;
    return present(hit.bits * (ordinary ? ORDINARY_SHARE : 1), seen, "not listed");
  },
};
