/** Joins what was read of a request with what was verified of its credentials. */

import { readApiKey } from "../identity/api-key.ts";
import type { RequestFacts } from "../model/facts.ts";
import type { ApiKeyFacts, ProofFacts, TokenFacts } from "../model/identity.ts";
import type { IdentityPolicy } from "../model/policy.ts";
import type { EpochMs } from "../model/units.ts";
import type { ReadRequest } from "./request.ts";
import type { Tokens } from "./tokens.ts";

const ABSENT: TokenFacts = { kind: "absent" };
const NO_KEY: ApiKeyFacts = { kind: "absent" };

/** The token's facts: what jwt_authn verified, else what is verified here. A promise only for a token not yet known. */
export function readToken(read: ReadRequest, policy: IdentityPolicy, tokens: Tokens): TokenFacts | Promise<TokenFacts> {
  const claims = read.verifiedClaims[0];
  if (claims !== undefined) return tokens.ofClaims(claims, read.bearer);
  if (read.bearer === undefined || policy.apiKeyHeader === "authorization") return ABSENT;
  return tokens.read(read.bearer, policy.issuers, policy.trustDomains);
}

export function factsOf(
  read: ReadRequest,
  token: TokenFacts,
  policy: IdentityPolicy,
  key: Uint8Array,
  time: EpochMs,
  proof?: ProofFacts,
): RequestFacts {
  const { apiKeyHeader } = policy;
  return {
    time,
    protocol: read.protocol,
    requestId: read.requestId,
    connectionId: read.connectionId,
    sourceAddress: read.sourceAddress,
    sourcePort: read.sourcePort,
    destination: read.destination,
    method: read.method,
    path: read.path,
    userAgent: read.userAgent,
    tls: read.tls,
    requestBytes: read.requestBytes,
    lasting: read.lasting ? true : undefined,
    presented: {
      certificate: read.certificate,
      peerSpiffeId: read.peerSpiffeId,
      peerNameInvalid: read.peerNameInvalid,
      unanchored: read.unanchored,
      token,
      proof,
      apiKey:
        apiKeyHeader === undefined || isRepeated(read, apiKeyHeader)
          ? NO_KEY
          : readApiKey(read.headers.first(apiKeyHeader), policy.apiKeys, key),
      faults: faultsOf(read, apiKeyHeader),
    },
  };
}

function faultsOf(read: ReadRequest, apiKeyHeader: string | undefined): readonly string[] {
  let { faults } = read;
  if (read.verifiedClaims.length > 1) {
    const subjects = new Set(read.verifiedClaims.map((claims) => `${claims.iss}|${claims.sub}`));
    if (subjects.size > 1) faults = [...faults, "verified tokens of several subjects"];
  }
  if (apiKeyHeader !== undefined && apiKeyHeader !== "authorization" && isRepeated(read, apiKeyHeader)) {
    faults = [...faults, `more than one ${apiKeyHeader} header`];
  }
  return faults;
}

/** Two keys leave open which one the service will believe. */
function isRepeated(read: ReadRequest, header: string): boolean {
  return read.headers.count(header) > 1;
}
