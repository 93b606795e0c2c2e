/** Compiles whose certificates, tokens and keys are believed. */

import { durationMs } from "@bufbuild/protobuf/wkt";
import {
  type ApiKey,
  type Identity,
  type Issuer,
  type RegisteredKeys as RegisteredKeysText,
  RequireBoundProof,
  type TrustDomain,
} from "../gen/sallyport/policy/v1/policy_pb.ts";
import type { IdentityPolicy, IssuerPolicy, Lookup, RegisteredKeys, TrustDomainPolicy } from "../model/policy.ts";
import { readAnchors } from "./anchors.ts";
import { ALGORITHMS, API_KEY_HEADER, CLOCK_TOLERANCE_MS } from "./defaults.ts";
import type { Files } from "./files.ts";
import { checkKeySet } from "./forms.ts";
import { compileGlob, lazyGlob } from "./globs.ts";
import { type PackedTable, type PackedTexts, TableBuilder, TextLookup, TextsBuilder, textAt } from "./packed-table.ts";
import { type Steps, sliced } from "./steps.ts";

/** What identity needs of files, and what there may be very much of. */
export interface PackedIdentity {
  readonly apiKeys: PackedApiKeys;
  /** By the issuer's place; `undefined` where the policy itself says it. */
  readonly keySets: readonly (string | undefined)[];
  readonly trustDomains: readonly TrustDomainPolicy[];
  /** Key sets of principals, by their place; `undefined` where the policy itself says it. */
  readonly registeredKeys: readonly (string | undefined)[];
}

export interface PackedApiKeys {
  /** Lower-case hex SHA-256. */
  readonly table: PackedTable;
  readonly names: PackedTexts;
}

export function packIdentity(identity: Identity | undefined, files: Files): PackedIdentity {
  return {
    apiKeys: packApiKeys(identity?.apiKeys?.keys ?? []),
    keySets: (identity?.issuers ?? []).map((issuer, index) =>
      readKeySet(issuer.jwks?.source, `issuers[${index}]`, files),
    ),
    trustDomains: (identity?.trustDomains ?? []).map((domain, index) => readTrustDomain(domain, index, files)),
    registeredKeys: (identity?.registeredKeys ?? []).map(({ jwks }, index) =>
      readKeySet(jwks?.source, `registeredKeys[${index}]`, files),
    ),
  };
}

/** Hashes are checked to be there once each. */
function packApiKeys(keys: readonly ApiKey[]): PackedApiKeys {
  const table = new TableBuilder();
  const names = new TextsBuilder();
  for (const { name, sha256 } of keys) if (table.add(sha256.toLowerCase()) === names.size) names.add(name);
  return { table: table.pack(), names: names.pack() };
}

function openApiKeys({ table, names }: PackedApiKeys): Lookup<string> {
  return new TextLookup(table, (number) => textAt(names, number));
}

/** A key set of no keys: nothing verifies against it. It stands in where a file is at fault, which is reported. */
const NO_KEYS = '{"keys":[]}';

interface KeySetSource {
  readonly case: string | undefined;
  readonly value?: string | undefined;
}

function readKeySet(source: KeySetSource | undefined, place: string, files: Files): string | undefined {
  if (source?.case !== "file" || source.value === undefined) return undefined;
  const name = source.value;
  const keys = files.text(`spec.identity.${place}.jwks.file`, name);
  if (keys === undefined) return NO_KEYS;
  const fault = checkKeySet(keys);
  if (fault !== undefined) files.fault(name, fault.expected, fault.got);
  return keys;
}

function readTrustDomain({ name, anchors, audiences }: TrustDomain, index: number, files: Files): TrustDomainPolicy {
  const source = anchors?.source;
  const path = `spec.identity.trustDomains[${index}].anchors`;
  const none: TrustDomainPolicy = { name, authorities: [], jwtKeys: undefined, audiences };
  const text = source?.case === "file" ? files.text(`${path}.file`, source.value) : source?.value;
  if (text === undefined) return none;
  const read = readAnchors(text);
  if (read.ok) return { ...none, authorities: read.authorities.certificates, jwtKeys: read.authorities.jwtKeys };
  if (source?.case === "file") files.fault(source.value, read.expected, read.got);
  else files.report(`${path}.inline`, read.expected, read.got);
  return none;
}

/** Without an identity part, nobody's tokens, keys or forwarded certificates are believed. */
export function* compileIdentity(identity: Identity | undefined, packed: PackedIdentity): Steps<IdentityPolicy> {
  const { apiKeys } = identity ?? {};
  const issuers = yield* sliced((identity?.issuers ?? []).entries(), ([index, issuer]) =>
    compileIssuer(issuer, packed.keySets[index]),
  );
  const delegations = yield* sliced(identity?.delegations ?? [], ({ caller, subject }) => ({
    caller: compileGlob(caller),
    subject: compileGlob(subject),
  }));
  return {
    issuers,
    xfccHops: yield* sliced(identity?.xfccHops ?? [], compileGlob),
    apiKeyHeader: apiKeys === undefined ? undefined : (apiKeys.header || API_KEY_HEADER).toLowerCase(),
    apiKeys: openApiKeys(packed.apiKeys),
    trustedSpiffe: yield* sliced(identity?.trustedSpiffe ?? [], compileGlob),
    delegations,
    singleUseIssuers: identity?.singleUseIssuers ?? [],
    trustDomains: new Map(packed.trustDomains.map((domain) => [domain.name, domain])),
    registeredKeys: yield* sliced((identity?.registeredKeys ?? []).entries(), ([index, keys]) =>
      compileRegisteredKeys(keys, packed.registeredKeys[index]),
    ),
    requireBoundProof: requireBoundProofOf(identity?.requireBoundProof),
  };
}

function compileRegisteredKeys({ principals, jwks }: RegisteredKeysText, keySet: string | undefined): RegisteredKeys {
  const inline = jwks?.source.case === "inline" ? jwks.source.value : NO_KEYS;
  return { principals: principals.map(lazyGlob), jwks: keySet ?? inline };
}

function requireBoundProofOf(given: RequireBoundProof | undefined): IdentityPolicy["requireBoundProof"] {
  if (given === RequireBoundProof.DENY) return "deny";
  return given === RequireBoundProof.OFF ? "off" : "challenge";
}

function compileIssuer(issuer: Issuer, keySet: string | undefined): IssuerPolicy {
  const tolerance = issuer.clockTolerance;
  const source = issuer.jwks?.source;
  return {
    issuer: issuer.issuer,
    audiences: issuer.audiences,
    jwks:
      source?.case === "url"
        ? { kind: "url", url: source.value }
        : { kind: "inline", keys: keySet ?? (source?.case === "inline" ? source.value : NO_KEYS) },
    bindsCertificates: issuer.bindsCertificates,
    algorithms: issuer.algorithms.length > 0 ? issuer.algorithms : ALGORITHMS,
    clockToleranceMs: tolerance === undefined ? CLOCK_TOLERANCE_MS : durationMs(tolerance),
  };
}
