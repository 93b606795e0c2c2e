/** Compiles whose certificates, tokens and keys are believed. */

import type { Identity, Issuer } from "../gen/sallyport/policy/v1/policy_pb.ts";
import type { IdentityPolicy, IssuerPolicy } from "../model/policy.ts";
import { ALGORITHMS, API_KEY_HEADER, CLOCK_TOLERANCE_MS } from "./defaults.ts";
import type { Files } from "./files.ts";
import { checkKeySet } from "./forms.ts";
import { compileGlob } from "./globs.ts";

/** Without an identity part, nobody's tokens, keys or forwarded certificates are believed. */
export function compileIdentity(identity: Identity | undefined, files: Files): IdentityPolicy {
  const { apiKeys } = identity ?? {};
  return {
    issuers: (identity?.issuers ?? []).map((issuer, index) => compileIssuer(issuer, index, files)),
    xfccHops: (identity?.xfccHops ?? []).map(compileGlob),
    apiKeyHeader: apiKeys === undefined ? undefined : (apiKeys.header || API_KEY_HEADER).toLowerCase(),
    apiKeys: new Map((apiKeys?.keys ?? []).map(({ name, sha256 }) => [sha256.toLowerCase(), name])),
    trustedSpiffe: (identity?.trustedSpiffe ?? []).map(compileGlob),
    delegations: (identity?.delegations ?? []).map(({ caller, subject }) => ({
      caller: compileGlob(caller),
      subject: compileGlob(subject),
    })),
    singleUseIssuers: identity?.singleUseIssuers ?? [],
  };
}

function compileIssuer(issuer: Issuer, index: number, files: Files): IssuerPolicy {
  const tolerance = issuer.clockTolerance;
  return {
    issuer: issuer.issuer,
    audiences: issuer.audiences,
    jwks: compileKeySet(issuer, index, files),
    algorithms: issuer.algorithms.length > 0 ? issuer.algorithms : ALGORITHMS,
    clockToleranceMs:
      tolerance === undefined ? CLOCK_TOLERANCE_MS : Number(tolerance.seconds) * 1_000 + tolerance.nanos / 1_000_000,
  };
}

/** A key set of no keys: nothing verifies against it. It stands in where a file is at fault, which is reported. */
const NO_KEYS: IssuerPolicy["jwks"] = { kind: "inline", keys: '{"keys":[]}' };

function compileKeySet({ jwks }: Issuer, index: number, files: Files): IssuerPolicy["jwks"] {
  const source = jwks?.source;
  switch (source?.case) {
    case "url":
      return { kind: "url", url: source.value };
    case "inline":
      return { kind: "inline", keys: source.value };
    case "file": {
      const keys = files.text(`spec.identity.issuers[${index}].jwks.file`, source.value);
      if (keys === undefined) return NO_KEYS;
      const fault = checkKeySet(keys);
      if (fault !== undefined) files.fault(source.value, fault.expected, fault.got);
      return { kind: "inline", keys };
    }
    default:
      return NO_KEYS;
  }
}
