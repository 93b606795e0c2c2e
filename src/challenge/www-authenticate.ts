/** `WWW-Authenticate` (RFC 9110, section 11.6.1): written for callers, and read by the client helper. */

import type { AuthenticationDemand } from "./bound.ts";
import type { JwsAlgorithm } from "./proof-key.ts";

export interface AuthenticateChallenge {
  /** In lower case. */
  readonly scheme: string;
  /** By lower-case name. */
  readonly parameters: ReadonlyMap<string, string>;
}

const FIELD_CHARS_MAX = 16 * 1024;
const CHALLENGES_MAX = 16;
const PARAMETERS_MAX = 32;

/** Asks for a proof with a nonce (RFC 9449, sections 7.1 and 9); the nonce itself travels as `DPoP-Nonce`. */
export function dpopChallenge(algorithms: readonly JwsAlgorithm[]): string {
  return `DPoP error="use_dpop_nonce", error_description="A proof made with this nonce is needed", algs="${algorithms.join(" ")}"`;
}

/** Asks for a fresher or stronger token (RFC 9470, section 3). `max_age=0` asks for one made from now on. */
export function stepUpChallenge(demand: AuthenticationDemand, scheme: "Bearer" | "DPoP" = "Bearer"): string {
  const parameters = [
    'error="insufficient_user_authentication"',
    'error_description="A token issued after this challenge is needed"',
    `max_age="${demand.maxAgeSeconds ?? 0}"`,
    ...(demand.acrValues.length === 0 ? [] : [`acr_values="${demand.acrValues.join(" ")}"`]),
  ];
  return `${scheme} ${parameters.join(", ")}`;
}

/**
 * Challenges of all `WWW-Authenticate` lines joined by commas, in order. Reading stops at what is malformed: what came
 * before it still counts.
 */
export function parseAuthenticate(field: string): readonly AuthenticateChallenge[] {
  const challenges: { scheme: string; parameters: Map<string, string> }[] = [];
  if (field.length > FIELD_CHARS_MAX) return challenges;
  let at = 0;
  const match = (pattern: RegExp): RegExpExecArray | null => {
    pattern.lastIndex = at;
    const found = pattern.exec(field);
    if (found !== null) at += found[0].length;
    return found;
  };
  while (at < field.length) {
    match(/[ \t,]*/y);
    const parameter = match(
      /([!#$%&'*+\-.^_`|~0-9A-Za-z]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"=]+))(?=[ \t]*(?:,|$))/y,
    );
    const current = challenges.at(-1);
    if (parameter !== null) {
      if (current === undefined || current.parameters.size >= PARAMETERS_MAX) return challenges;
      const value = parameter[2]?.replace(/\\(.)/g, "$1") ?? parameter[3] ?? "";
      current.parameters.set((parameter[1] as string).toLowerCase(), value);
      continue;
    }
    const scheme = match(
      /([!#$%&'*+\-.^_`|~0-9A-Za-z]+)(?: +(?:[A-Za-z0-9\-._~+/]+=*(?=[ \t]*(?:,|$)))?|(?=[ \t]*(?:,|$)))/y,
    );
    if (scheme === null || challenges.length >= CHALLENGES_MAX) return challenges;
    challenges.push({ scheme: (scheme[1] as string).toLowerCase(), parameters: new Map() });
  }
  return challenges;
}
