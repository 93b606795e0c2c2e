/** Reads whether the source address belongs to another workload than the one that the caller says to be. */

import { HOUR_MS } from "../model/units.ts";
import { absent, bitsOf, NOTHING, present, type Signal } from "./signal.ts";

/**
 * Share of thieves, among those who call from a known pod, that call from another pod than the victim's. The rest are in
 * the victim's own pod. A round figure: what the principal's own arrivals have taught makes nearly all the evidence.
 */
const THIEF_ELSEWHERE = 0.5;

export const postureOtherWorkload: Signal = {
  name: "posture.other_workload",
  summary:
    "The source address is that of a pod with another service account than the principal's, by what the control plane says of the cluster's pods. How often that is so of honest callers is learned, by hours of sessions, pooled and per principal: callers behind gateways, proxies and address translation come to say nothing, and nothing is said where many principals show the same address at once. It is silent where the address is in no table, belongs to several pods, to one on its node's network or to one that is ending, has changed hands within the last minute, or where the table was not confirmed for 150 s; where the principal has no known pod of its own; and where a hop reported the certificate (XFCC), since the address may be the hop's.",
  gathering: "hold",
  halfLifeMs: HOUR_MS / 4,
  // Alone no ground for a challenge at the shipped thresholds: a road that nobody has thought of looks like this too.
  capBits: 10,
  discharged: true,
  cause: ({ origin }) => origin.address ?? "",
  read: ({ peer, identity, facts, origin, arrivals, commonCause }) => {
    if (peer === undefined) return absent("the address names no pod for certain");
    if (peer.kind === "own") return NOTHING;
    if (facts.presented.certificate?.via === "xfcc") return absent("the certificate was reported by a hop");
    const { workload } = peer;
    const ordinary = Math.max(
      arrivals.chance(identity.principal.name),
      commonCause("posture.other_workload", origin.address ?? ""),
    );
    return present(
      Math.max(0, bitsOf(THIEF_ELSEWHERE, ordinary)),
      `${origin.address} is pod ${workload.common.namespace}/${workload.own.pod} of ${workload.principals[0]}`,
      `a pod of ${identity.principal.name}`,
    );
  },
};
