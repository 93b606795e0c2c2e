/** Answers one Check call: read, verify, judge, answer; learning follows once the answer is on its way. */

import { identify } from "../identity/identify.ts";
import type { PolicyFreshness } from "../model/bundle.ts";
import type { RequestFacts } from "../model/facts.ts";
import type { TokenFacts } from "../model/identity.ts";
import type { Line } from "../model/line.ts";
import type { Policy } from "../model/policy.ts";
import { toEpochMs } from "../model/units.ts";
import type { Verdict } from "../model/verdict.ts";
import { GrpcFailure } from "../transport/unary.ts";
import { Afterwards } from "./afterwards.ts";
import { Anchoring, type Shown } from "./anchoring.ts";
import { factsOf, readToken } from "./facts.ts";
import { OWN_PREFIX } from "./headers.ts";
import { provingOf, readProof } from "./proof-facts.ts";
import type { Proofs } from "./proofs.ts";
import { type ReadRequest, RequestMemory, readRequest } from "./request.ts";
import { responseOf } from "./response.ts";
import type { Tokens } from "./tokens.ts";
import type { WireRequest } from "./wire-request.ts";

/** Verification that needs the network must stay inside Envoy's own deadline for the check. */
const VERIFY_TIMEOUT_MS = 100;
/** Of a shorter deadline verification gets this share. */
const VERIFY_SHARE = 0.5;

/** How a check is answered that the process cannot take its time for; see `on-overload` of `serve`. */
export type OnOverload = "standing" | "unavailable" | "judge";

/** How it stands with the process, and with those who call. */
export interface Load {
  /** Tells that a check came in; milliseconds, monotonic. */
  seen(nowMs: number): void;
  /** How long what is read now may have waited. */
  delayMs(nowMs: number): number;
  level(nowMs: number): "calm" | "pressed" | "overloaded";
  /** Whether a principal asks for so much that it is answered cheaply before others are. */
  isHeavy(principal: string): boolean;
}

/** How a check was answered without being judged in full: the label of the metric. */
export type Shed = "standing" | "unavailable" | "late";

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
  /** Without it, every check is judged in full. */
  readonly load?: Load | undefined;
  readonly onOverload?: OnOverload | undefined;
  readonly onShed?: ((how: Shed) => void) | undefined;
  /** Told before Envoy is answered that it will hold this request's stream. */
  readonly onHeld?: ((facts: RequestFacts, verdict: Verdict) => void) | undefined;
  /** Told of every verdict once its answer is on its way. */
  readonly onVerdict: (facts: RequestFacts, verdict: Verdict, latencyUs: number, freshness: PolicyFreshness) => void;
  /** Told of what failed after an answer. */
  readonly onError: (error: unknown) => void;
}

/** What follows an answer. */
interface Answered {
  readonly facts: RequestFacts;
  readonly verdict: Verdict;
  readonly latencyUs: number;
  readonly policyFreshness: PolicyFreshness;
}

const UNAVAILABLE = 14;

export class Authorizer {
  private readonly memory = new RequestMemory();
  private readonly anchoring: Anchoring;
  private readonly options: AuthorizerOptions;
  private readonly afterwards: Afterwards<Answered>;

  constructor(options: AuthorizerOptions) {
    this.options = options;
    this.anchoring = new Anchoring(options.now);
    this.afterwards = new Afterwards(({ facts, verdict, latencyUs, policyFreshness }) => {
      options.line.learn(facts, verdict);
      options.onVerdict(facts, verdict, latencyUs, policyFreshness);
    }, options.onError);
  }

  /**
   * Synchronous unless a bearer token must be verified first.
   * @param message bytes of a CheckRequest, which must stay as they are until the answer is there
   * @param timeoutMs what Envoy's own deadline leaves; `undefined`: it has none
   * @returns bytes of a CheckResponse
   * @throws {WireError} when the bytes are no CheckRequest
   * @throws {GrpcFailure} UNAVAILABLE when Envoy no longer waits, or under overload where the operator wants it so:
   *   `failure_mode_allow` decides
   */
  check(message: Uint8Array, timeoutMs?: number): Uint8Array | Promise<Uint8Array> {
    const startedUs = this.options.microseconds();
    this.refuseLate(startedUs, timeoutMs);
    const { memory } = this;
    const request = memory.lend();
    let answer: Uint8Array | Promise<Uint8Array>;
    try {
      answer = this.answer(request, message, timeoutMs, startedUs);
    } catch (error) {
      memory.giveBack(request);
      throw error;
    }
    if (answer instanceof Promise) return answer.finally(() => memory.giveBack(request));
    memory.giveBack(request);
    return answer;
  }

  private answer(
    request: WireRequest,
    message: Uint8Array,
    timeoutMs: number | undefined,
    startedUs: number,
  ): Uint8Array | Promise<Uint8Array> {
    const policy = this.options.policy();
    const { xfccHops, trustDomains } = policy.identity;
    const isAnchored = (shown: Shown): boolean => this.anchoring.isAnchored(shown, trustDomains);
    const read = readRequest(message, this.memory, xfccHops, isAnchored, request);
    const token = readToken(read, policy.identity, this.options.tokens);
    if (!(token instanceof Promise)) return this.judge(read, token, policy, startedUs);
    const limitMs = Math.min(VERIFY_TIMEOUT_MS, (timeoutMs ?? Number.POSITIVE_INFINITY) * VERIFY_SHARE);
    return withinTime(token, limitMs).then((verified) => this.judge(read, verified, policy, startedUs));
  }

  /** Learns and tells what is still to be learned and told. */
  settle(): void {
    this.afterwards.flush();
  }

  private refuseLate(startedUs: number, timeoutMs: number | undefined): void {
    const { load, onShed } = this.options;
    if (load === undefined) return;
    const nowMs = startedUs / 1_000;
    load.seen(nowMs);
    if (timeoutMs === undefined || load.delayMs(nowMs) < timeoutMs) return;
    onShed?.("late");
    throw new GrpcFailure(UNAVAILABLE, "the check waited longer than its deadline");
  }

  private judge(read: ReadRequest, token: TokenFacts, policy: Policy, startedUs: number): Uint8Array {
    const { line, key, now, microseconds, onHeld } = this.options;
    const policyFreshness = this.options.freshness?.() ?? "fresh";
    const { proofs } = this.options;
    const time = toEpochMs(now());
    const proof = proofs === undefined ? undefined : readProof(read, token, policy, proofs);
    const facts = factsOf(read, token, policy.identity, key, time, proof);
    const verdict = this.standing(facts, policy, startedUs) ?? line.check(facts, policy);
    if (verdict.watch && verdict.enforced === "allow") onHeld?.(facts, verdict);
    const latencyUs = Math.max(0, Math.round(microseconds() - startedUs));
    const response = responseOf(verdict, {
      protocol: facts.protocol,
      policy: policy.response,
      ownHeaders: read.headers.names(OWN_PREFIX),
      latencyUs,
      policyFreshness,
      proofs,
      proving: proofs === undefined ? undefined : provingOf(read, facts, proof),
    });
    this.afterwards.add({ facts, verdict, latencyUs, policyFreshness });
    return response;
  }

  /** What the session stands at, where the process cannot take its time; `undefined`: the request is judged in full. */
  private standing(facts: RequestFacts, policy: Policy, startedUs: number): Verdict | undefined {
    const { load, onOverload, onShed, line } = this.options;
    if (load === undefined || onOverload === "judge") return undefined;
    const level = load.level(startedUs / 1_000);
    if (level === "calm") return undefined;
    if (level === "pressed" && !load.isHeavy(identify(facts.presented, policy.identity).principal.name))
      return undefined;
    if (onOverload === "unavailable") {
      onShed?.("unavailable");
      throw new GrpcFailure(UNAVAILABLE, "overloaded");
    }
    const verdict = line.standing(facts, policy);
    if (verdict !== undefined) onShed?.("standing");
    return verdict;
  }
}

function withinTime(token: Promise<TokenFacts>, limitMs: number): Promise<TokenFacts> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(
      () =>
        resolve({ kind: "unverified", why: "token could not be verified in time", forged: false, id: "token:unknown" }),
      limitMs,
    );
    token.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
