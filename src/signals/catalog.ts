/** Every signal there is, in the order in which they are read. */

import { challengeUnanswered } from "./challenge-unanswered.ts";
import {
  credentialBinding,
  credentialForged,
  credentialSubject,
  credentialTimes,
  credentialUnknownKey,
} from "./credential-hygiene.ts";
import { credentialReused, credentialShared } from "./credential-use.ts";
import { identityFaults, identityUntrusted } from "./identity.ts";
import { originAddress } from "./origin-address.ts";
import { originAgent, originFingerprint } from "./origin-client.ts";
import { credentialMoved } from "./origin-credential.ts";
import { postureForbidden, postureUnknown } from "./posture.ts";
import { postureOtherWorkload } from "./posture-workload.ts";
import { reputationAddress, reputationFingerprint } from "./reputation.ts";
import type { Signal } from "./signal.ts";
import { usageDestination, usageNewCaller, usageRoute } from "./usage-route.ts";
import { usageBytes, usageErrors, usageHour, usageRate, usageSpread } from "./usage-volume.ts";

export const SIGNALS: readonly Signal[] = [
  identityUntrusted,
  identityFaults,
  credentialForged,
  credentialBinding,
  credentialUnknownKey,
  credentialTimes,
  credentialSubject,
  credentialMoved,
  credentialShared,
  credentialReused,
  originAddress,
  originFingerprint,
  originAgent,
  reputationAddress,
  reputationFingerprint,
  usageNewCaller,
  usageDestination,
  usageRoute,
  usageRate,
  usageSpread,
  usageErrors,
  usageBytes,
  usageHour,
  postureForbidden,
  postureUnknown,
  postureOtherWorkload,
  challengeUnanswered,
];

export const SIGNALS_BY_NAME: ReadonlyMap<string, Signal> = new Map(SIGNALS.map((signal) => [signal.name, signal]));
