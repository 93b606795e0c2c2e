/** Answers one Check call: read, verify, judge, answer; learning follows once the answer is on its way. */

import type { PolicyFreshness } from "../model/bundle.ts";
import type { RequestFacts } from "../model/facts.ts";
import type { TokenFacts } from "../model/identity.ts";
import type { Line } from "../model/line.ts";
import type { Policy } from "../model/policy.ts";
import { toEpochMs } from "../model/units.ts";
import type { Verdict } from "../model/verdict.ts";
import { Anchoring } from "./anchoring.ts";
import { factsOf, readToken } from "./facts.ts";
import { OWN_PREFIX } from "./headers.ts";
import { provingOf, readProof } from "./proof-facts.ts";
import type { Proofs } from "./proofs.ts";
import { type ReadRequest, RequestMemory, readRequest } from "./request.ts";
import { responseOf } from "./response.ts";
import type { Tokens } from "./tokens.ts";

/** Verification that needs the network must stay inside Envoy's own deadline for the check. */
const VERIFY_TIMEOUT_MS = 100;

export interface AuthorizerOptions {
  readonly line: Line;
  /** The policy in force; asked once per request. */
  readonly policy: () => Policy;
  /** How that policy stands to what should be in force; without it, it counts as fresh. */
  readonly freshness?: () => PolicyFreshness;
  readonly tokens: Tokens;
  /** Without it, no proofs are looked at, and none can be asked for. */
  readonly proofs?: Proofs | undefined;
  /** Key of the hashes that stand for credentials. */
  readonly key: Uint8Array;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  /** Monotonic microseconds, for latency. */
  readonly microseconds: () => number;
  /** Told before Envoy is answered that it will hold this request's stream. */
  readonly onHeld?: ((facts: RequestFacts, verdict: Verdict) => void) | undefined;
  /** Told of every verdict after it was made. */
  readonly onVerdict: (facts: RequestFacts, verdict: Verdict, latencyUs: number, freshness: PolicyFreshness) => void;
}

export class Authorizer {
  private readonly memory = new RequestMemory();
  private readonly anchoring: Anchoring;
  private readonly options: AuthorizerOptions;

  constructor(options: AuthorizerOptions) {
    this.options = options;
    this.anchoring = new Anchoring(options.now);
  }

  /**
   * Synchronous unless a bearer token must be verified first.
   * @param message bytes of a CheckRequest, which must stay as they are until the answer is there
   * @returns bytes of a CheckResponse
   * @throws {WireError} when the bytes are no CheckRequest
   */
  check(message: Uint8Array): Uint8Array | Promise<Uint8Array> {
    const startedUs = this.options.microseconds();
    const policy = this.options.policy();
    const { xfccHops, trustDomains } = policy.identity;
    const read = readRequest(message, this.memory, xfccHops, (shown) => this.anchoring.isAnchored(shown, trustDomains));
    const token = readToken(read, policy.identity, this.options.tokens);
    if (!(token instanceof Promise)) return this.judge(read, token, policy, startedUs);
    return withinTime(token).then((verified) => this.judge(read, verified, policy, startedUs));
  }

  private judge(read: ReadRequest, token: TokenFacts, policy: Policy, startedUs: number): Uint8Array {
    const { line, key, now, microseconds, onHeld, onVerdict } = this.options;
    const policyFreshness = this.options.freshness?.() ?? "fresh";
    const { proofs } = this.options;
    const time = toEpochMs(now());
    const proof = proofs === undefined ? undefined : readProof(read, token, policy, proofs);
    const facts = factsOf(read, token, policy.identity, key, time, proof);
    const verdict = line.check(facts, policy);
    if (verdict.watch && verdict.enforced === "allow") onHeld?.(facts, verdict);
    const latencyUs = Math.max(0, Math.round(microseconds() - startedUs));
    const response = responseOf(verdict, {
      protocol: facts.protocol,
      policy: policy.response,
      ownHeaders: read.headers.names(OWN_PREFIX),
      latencyUs,
      policyFreshness,
      ...(proofs === undefined ? {} : { proofs, proving: provingOf(read, facts, proof) }),
    });
    setImmediate(() => {
      line.learn(facts, verdict);
      onVerdict(facts, verdict, latencyUs, policyFreshness);
    });
    return response;
  }
}

function withinTime(token: Promise<TokenFacts>): Promise<TokenFacts> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(
      () =>
        resolve({ kind: "unverified", why: "token could not be verified in time", forged: false, id: "token:unknown" }),
      VERIFY_TIMEOUT_MS,
    );
    token.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
