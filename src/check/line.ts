/** The straight line of one request, from facts to verdict, and all that it remembers. */

import { Arrivals } from "../baseline/arrivals.ts";
import { type Baseline, HABIT, HABIT_NAMES } from "../baseline/baseline.ts";
import { BaselineStore } from "../baseline/store.ts";
import { answerOf, issueChallenge, lacksProof } from "../challenge/answer.ts";
import { chooseKind } from "../challenge/choose.ts";
import { decide, modeFor, thresholdsFor } from "../decide/decide.ts";
import { finishRules, peerGroupOf, type Staged, stageRules } from "../decide/rules.ts";
import { identify } from "../identity/identify.ts";
import type { Outcome, RequestFacts } from "../model/facts.ts";
import type { Identity } from "../model/identity.ts";
import type { Line, LineStats, LockChange, PrincipalSummary, RandomBytes, ScoreBand } from "../model/line.ts";
import type {
  Asked,
  AutoLockScope,
  ChallengePolicy,
  LockScope,
  Policy,
  PostureFacts,
  Rule,
  Thresholds,
} from "../model/policy.ts";
import { type EpochMs, HOUR_MS, MINUTE_MS, SECOND_MS } from "../model/units.ts";
import type { Decision, Mode, Reading, Verdict } from "../model/verdict.ts";
import { ScoreBands } from "../score/bands.ts";
import { Calibrations } from "../score/calibration.ts";
import { forget, gather } from "../score/gather.ts";
import { type Evidence, type Scored, score } from "../score/score.ts";
import {
  type CredentialUse,
  copyOf,
  noteRoute,
  type OpenChallenge,
  RATE_WINDOW_MS,
  type Session,
} from "../sessions/session.ts";
import { SessionStore } from "../sessions/store.ts";
import { SIGNALS } from "../signals/catalog.ts";
import { otherUser } from "../signals/credential-use.ts";
import { type Origin, originOf } from "../signals/origin.ts";
import type { Signal, SignalContext } from "../signals/signal.ts";
import { CommonCause } from "./common-cause.ts";
import { decisionId } from "./decision-id.ts";
import { LastingRoutes } from "./lasting-routes.ts";
import { Locks, matchPolicyLocks } from "./locks.ts";
import { type Lesson, type Pending, PendingTable } from "./pending.ts";
import { planOf } from "./plan.ts";
import { Postures } from "./posture-table.ts";
import { readSnapshot, snapshotSteps, writeSnapshot } from "./snapshot.ts";
import type { SnapshotSource } from "./snapshot-state.ts";
import { teach, teachOutcome } from "./teach.ts";
import { Workloads } from "./workload-table.ts";

export interface LineOptions {
  readonly principalsMax: number;
  readonly sessionsMax: number;
  readonly random: RandomBytes;
  /** Told of every lock that is set or taken away, automatic ones included, once it has happened. */
  readonly onLock?: ((change: LockChange) => void) | undefined;
}

/** Ten thousand of the fleet, and as many of this sidecar. */
const LOCKS_MAX = 20_000;
const POSTURES_MAX = 10_000;
const PENDING_MAX = 16_384;
/** Pods; a control plane tells of ten thousand unless it is told otherwise. */
const WORKLOADS_MAX = 50_000;
const ARRIVALS_MAX = 10_000;

/** Requests already under way when a challenge was put could not answer it; they are challenged, not blamed. */
const ANSWER_GRACE_MS = 2 * SECOND_MS;

/** From this age on, what memory here holds as ordinary is enough to deny somebody who has answered. */
const SEASONED_MS = HOUR_MS;

/** How long a session stands by what it was judged in full. */
const STANDING_MS = MINUTE_MS;

/** Evidence of fewer bits than this is no novelty worth noticing elsewhere. */
const NOTICED_BITS = 3;

/** Readings below this are not worth a reason. */
const READING_SHOWN_BITS = 0.1;

/** The nil UUID (RFC 9562, section 5.9): a preview is no decision, and uses up no random bytes. */
const PREVIEW_ID = "00000000-0000-0000-0000-000000000000";

const NO_RULES: Staged = { rule: undefined, open: [], errors: [] };

const UNREAD: Reading = { kind: "absent", why: "not read" };

const NOWHERE = { asn: undefined, country: undefined };

export function createLine(options: LineOptions): Line {
  return new RequestLine(options);
}

class RequestLine implements Line {
  readonly locks: Locks;
  readonly posture = new Postures(POSTURES_MAX);
  readonly workloads = new Workloads(WORKLOADS_MAX);
  private readonly arrivals = new Arrivals(ARRIVALS_MAX);
  private readonly baselines: BaselineStore;
  private readonly sessions: SessionStore;
  private readonly pending = new PendingTable(PENDING_MAX);
  private readonly causes = new CommonCause();
  private readonly lasting = new LastingRoutes();
  private readonly bands = new ScoreBands();
  private calibrations = new Calibrations();
  private readonly random: RandomBytes;
  private autoLocks = 0;

  constructor({ principalsMax, sessionsMax, random, onLock }: LineOptions) {
    this.locks = new Locks(LOCKS_MAX, onLock);
    this.baselines = new BaselineStore(principalsMax);
    this.sessions = new SessionStore(sessionsMax);
    this.random = random;
  }

  check(facts: RequestFacts, policy: Policy): Verdict {
    const judged = this.judge(facts, policy, "live");
    return this.commit(judged, facts, policy);
  }

  preview(facts: RequestFacts, policy: Policy): Verdict {
    const judged = this.judge(facts, policy, "preview");
    return verdictOf(judged, PREVIEW_ID, facts, policy);
  }

  review(facts: RequestFacts, policy: Policy): Verdict {
    const judged = this.judge(facts, policy, "review");
    return verdictOf(judged, PREVIEW_ID, facts, policy);
  }

  standing(facts: RequestFacts, policy: Policy): Verdict | undefined {
    const identity = identify(facts.presented, policy.identity);
    const origin = originOf(facts, policy.geo);
    const session = this.sessions.open(origin, identity.principal.name, identity.credential, facts.time);
    if (!(facts.time - session.judgedMs < STANDING_MS)) return undefined;
    const judged = this.judge(facts, policy, "standing");
    const verdict = verdictOf(judged, decisionId(facts.time, this.random(16)), facts, policy);
    this.carryOut(verdict, facts, policy, judged.put, session);
    noteRequest(session, judged.context);
    this.sessions.keep(session);
    // Tokens may be good for one use only: that much is learned.
    if (identity.proven && verdict.enforced === "allow") this.touchCredential(session, facts, origin);
    return verdict;
  }

  /**
   * Judges one request: identity, session, readings, score, rule, decision. Nothing that others see is changed but the
   * session, and that only when `live` or `standing`; otherwise a copy of it is judged and thrown away. A `review` takes
   * the request as made before: it neither answers nor ignores a challenge, and adds nothing to what its session has
   * gathered. A `standing` judgement adds nothing either, and reads only what holds now.
   */
  private judge(facts: RequestFacts, whole: Policy, how: How): Judged {
    const live = how === "live" || how === "standing";
    const again = how === "review";
    const now = facts.time;
    const identity = identify(facts.presented, whole.identity);
    const principal = identity.principal.name;
    const peerGroup = peerGroupOf(whole, principal);
    const origin = originOf(facts, whole.geo);
    const { population } = this.baselines;
    const route = facts.protocol === "tcp" ? facts.destination : population.templates.route(facts.method, facts.path);
    const opened = this.sessions.open(origin, principal, identity.credential, now);
    const session = live ? opened : copyOf(opened);
    const credentialUse = identity.proven ? this.sessions.useOf(session) : undefined;
    const peer = this.workloads.size === 0 ? undefined : this.workloads.peerOf(facts.sourceAddress, principal, now);
    const posture = this.postureOf(identity, facts, whole, peer);
    const unscored =
      whole.rules.length === 0 ? undefined : askedOf(facts, identity, route, peerGroup, posture, whole.geo);
    const staged = unscored === undefined ? NO_RULES : stage(whole, unscored);
    const policy = staged.rule?.signal === undefined ? whole : { ...whole, signal: staged.rule.signal };
    const answered = !again && this.settleChallenge(session, facts, identity, credentialUse);
    const closedWindow = again ? undefined : rollWindow(session, now);

    const baseline = identity.proven ? this.baselines.get(principal) : undefined;
    const context: SignalContext = {
      facts,
      policy,
      identity,
      origin,
      route,
      baseline,
      forgotten: baseline === undefined && this.baselines.forgotten.has(principal),
      population,
      session,
      credentialUse,
      posture,
      peer,
      arrivals: this.arrivals,
      commonCause: (signal, value) =>
        live
          ? this.causes.share(causeKey(signal, value), principal, now)
          : this.causes.peek(causeKey(signal, value), principal, now),
    };
    const second = identity.second === undefined ? undefined : this.baselines.get(identity.second.name);
    const gathered = gatherAll(context, second, now, how);

    const lock =
      this.locks.match(facts, identity, peerGroup, now) ??
      matchPolicyLocks(policy.locks, facts, identity, peerGroup, now);
    let certain = gathered.certain;
    if (lock !== undefined) {
      gathered.evidence.push({
        signal: "lock",
        bits: 64,
        seen: `lock ${lock.id}: ${lock.reason}`,
        expected: "no lock",
        counted: true,
      });
      certain = { kind: "terminate", because: "lock", signal: "lock" };
    }
    const points = (bits: number): number =>
      live ? this.calibrations.score(bits, context.baseline) : this.calibrations.peek(bits, context.baseline);
    const scored = score(gathered.evidence, points, certain?.signal);

    const { rule, errors } =
      unscored === undefined || staged.open.length === 0
        ? staged
        : finishRules(staged, () => ({
            ...unscored,
            scored: { score: scored.score, readings: readingsOf(gathered.evidence) },
          }));
    const put = rule?.challenge ?? policy.challenge;
    const discharged = now < session.standing.dischargedUntilMs;
    const thresholds = thresholdsFor(policy, rule);
    const seasoned = now - population.firstMs >= SEASONED_MS;
    const decision = decide(
      {
        score: scored.score,
        certain,
        tries: session.standing.tries,
        denials: session.standing.denials,
        answeredScore: discharged && isStrongEnough(put, session) ? session.standing.answeredScore : undefined,
        seasoned,
        rateOnly: onlyRate(scored.reasons),
        lacksProof: whole.identity.requireBoundProof !== "off" && lacksProof(facts),
      },
      thresholds,
      rule,
      put.triesMax,
      () => issueChallenge(chooseKind(put, facts, identity, whole.identity), put, now, session.standing.challenge),
    );
    const mode = modeFor(policy, rule);
    const known = facts.lasting === true || this.lasting.has(facts.destination, route);
    return {
      lasts: policy.streams.hold === "long" && known,
      context,
      rule,
      thresholds,
      put,
      mode,
      scored,
      decision,
      basis: how === "standing" ? how : undefined,
      answered,
      discharged,
      seasoned,
      closedWindow,
      newSignals: gathered.newSignals,
      peerGroup,
      conditionErrors: errors,
    };
  }

  /** Carries out what was judged: the session goes on, the counters count, and the verdict awaits its outcome. */
  private commit(judged: Judged, facts: RequestFacts, policy: Policy): Verdict {
    const { context, thresholds, scored, discharged } = judged;
    const { identity, origin, route, session, credentialUse, baseline } = context;
    const principal = identity.principal.name;
    const now = facts.time;
    const verdict = verdictOf(judged, decisionId(now, this.random(16)), facts, policy);
    const { decision, enforced, mode } = verdict;
    if (identity.proven) this.bands.count(scored.score);
    this.carryOut(verdict, facts, policy, judged.put, session);

    const moved =
      credentialUse !== undefined && origin.address !== undefined && !credentialUse.origins.has(origin.address);
    const teaches =
      identity.proven &&
      enforced === "allow" &&
      (decision.kind === "allow" || (mode === "observe" && decision.kind === "challenge"));
    noteRequest(session, context);
    session.judgedMs = now;
    this.sessions.keep(session);
    const lesson: Lesson = {
      facts,
      origin,
      bits: scored.bits,
      settles: discharged,
      suspect: judged.seasoned && discharged && scored.score >= thresholds.challenge,
      moved,
      shared:
        credentialUse === undefined || session.requests > 1
          ? undefined
          : otherUser(credentialUse, principal, now) !== undefined,
      newSignals: judged.newSignals,
      arrival: arrivalOf(context, session, now),
      closedWindow: judged.closedWindow,
    };
    this.pending.add({
      decisionId: verdict.decisionId,
      requestId: facts.requestId,
      destination: facts.destination,
      route,
      policy: context.policy,
      session,
      baseline,
      teaches,
      lesson,
      bytesBits: 0,
      older: undefined,
      newer: undefined,
    });
    return verdict;
  }

  learn(facts: RequestFacts, verdict: Verdict): void {
    const pending = this.pending.find(verdict.decisionId, undefined);
    const lesson = pending?.lesson;
    if (pending === undefined || lesson === undefined) return;
    pending.lesson = undefined;
    if (verdict.identity.proven) this.causes.note(pending.session, lesson.newSignals, facts.time);
    if (pending.teaches) this.admit(pending, lesson);
  }

  outcome(outcome: Outcome): void {
    const pending = this.pending.reported(outcome.decisionId, outcome.requestId);
    if (pending === undefined || !pending.teaches) return;
    this.lasting.note(pending.destination, pending.route, outcome.stage, outcome.durationMs);
    const baseline = this.baselineOf(pending);
    if (baseline === undefined) return;
    const { population } = this.baselines;
    const context = { baseline, population, session: pending.session, route: pending.route };
    for (const { signal, readOutcome } of planOf(pending.policy).outcomes) {
      const reading = readOutcome(outcome, context);
      if (reading.kind !== "present") continue;
      // A stream reports its total again and again: only what it adds is news.
      const credited = signal.name === "usage.bytes" ? pending.bytesBits : 0;
      const bits = credited > 0 ? Math.max(0, reading.bits - credited) : reading.bits;
      if (outcome.stage === "periodic") {
        if (signal.name !== "usage.bytes" || bits <= 0) continue;
        pending.bytesBits = Math.max(pending.bytesBits, reading.bits);
      }
      gather(pending.session, signal, { bits, seen: reading.seen, expected: reading.expected }, outcome.time, 0);
    }
    if (outcome.stage === "periodic") {
      if (outcome.decisionId !== undefined) this.pending.keep(pending);
      return;
    }
    teachOutcome(baseline, population, pending, outcome);
    this.pending.delete(outcome.decisionId, pending);
  }

  answer(facts: RequestFacts, verdict: Verdict, verified: boolean): void {
    const pending = this.pending.find(verdict.decisionId, undefined);
    if (pending === undefined || verdict.enforced !== "challenge") return;
    const { session } = pending;
    if (!verified) {
      session.standing.tries++;
      session.standing.challenge = undefined;
      return;
    }
    const { challenge } = session.standing;
    // Whoever is said to have answered has brought what was asked for.
    if (challenge !== undefined) this.discharge(session, challenge, facts.time, challenge.policy.acrValues[0]);
    const { lesson } = pending;
    if (!verdict.identity.proven || lesson === undefined) return;
    pending.lesson = undefined;
    pending.teaches = true;
    this.causes.note(session, lesson.newSignals, facts.time);
    this.admit(pending, { ...lesson, settles: true });
  }

  stats(): LineStats {
    return {
      principals: this.baselines.size,
      sessions: this.sessions.size,
      locks: this.locks.size,
      evictedPrincipals: this.baselines.evicted,
      evictedSessions: this.sessions.evicted,
      scored: this.bands.requests,
    };
  }

  scoreBands(levels: readonly number[]): readonly ScoreBand[] {
    return this.bands.at(levels);
  }

  principals(): readonly PrincipalSummary[] {
    return [...this.baselines].map(summarize);
  }

  forget(principal: string): boolean {
    this.sessions.forget(principal);
    this.arrivals.forget(principal);
    return this.baselines.delete(principal);
  }

  snapshot(now: EpochMs, part: "all" | "prior" = "all"): Uint8Array {
    return writeSnapshot(this.snapshotSource(now, part), now);
  }

  snapshotSteps(now: EpochMs): Iterator<Uint8Array | undefined, void> {
    return snapshotSteps(this.snapshotSource(now, "all"), now);
  }

  private snapshotSource(now: EpochMs, part: "all" | "prior"): SnapshotSource {
    const { baselines, calibrations, posture } = this;
    const own = part === "all";
    return {
      population: baselines.population,
      baselines: own ? baselines.all() : [],
      forgotten: own ? baselines.forgotten.entries() : [],
      calibrations,
      locks: own ? this.locks.inForce(now) : [],
      subjects: own ? posture.subjects() : [],
      postureOf: (subject) => posture.get(subject),
    };
  }

  restore(bytes: Uint8Array): void {
    const state = readSnapshot(bytes);
    this.baselines.clear();
    this.baselines.population = state.population;
    for (const baseline of state.baselines) this.baselines.restore(baseline);
    const { forgotten } = state;
    for (let i = 0; i < forgotten.length; i += 2) {
      this.baselines.forgotten.restore(forgotten[i] as number, forgotten[i + 1] as number);
    }
    this.calibrations = state.calibrations;
    for (const lock of state.locks) this.locks.add(lock);
    for (const [subject, facts] of state.posture) this.posture.put(subject, facts);
  }

  private admit(pending: Pending, lesson: Lesson): void {
    const { session } = pending;
    const { facts, origin } = lesson;
    const known = this.baselineOf(pending);
    if (known !== undefined) this.baselines.touchKnown(known, facts.time);
    const baseline = known ?? this.baselines.touch(session.principal, facts.time);
    pending.baseline = baseline;
    const novel = known === undefined && !this.baselines.forgotten.has(session.principal);
    teach(baseline, this.baselines.population, pending, lesson, novel);
    if (lesson.arrival !== undefined) {
      session.arrivalHour = Math.floor(facts.time / HOUR_MS);
      this.arrivals.learn(session.principal, lesson.arrival === "other");
    }
    this.touchCredential(session, facts, origin);
    // What goes on after a challenge is one event with it, whoever it is: counted once, it does not become ordinary.
    if (session.standing.tries > 0 || lesson.suspect) return;
    // Evidence lasts over a session, so its requests are no independent witnesses: n of them count as the root of n.
    this.calibrations.learn(lesson.bits, baseline, 1 / Math.sqrt(Math.max(1, session.requests)));
  }

  /** The baseline that a request is judged against by now, if there is one. */
  private baselineOf(pending: Pending): Baseline | undefined {
    if (pending.baseline?.kept !== true) pending.baseline = this.baselines.get(pending.session.principal);
    return pending.baseline;
  }

  private touchCredential(session: Session, facts: RequestFacts, origin: Origin): void {
    if (session.credential === "none") return;
    this.sessions.touchCredential(session, origin.address, facts.requestId, facts.time);
  }

  /** Looks whether an open challenge is answered by this request; otherwise it counts as ignored. */
  private settleChallenge(
    session: Session,
    facts: RequestFacts,
    identity: Identity,
    use: CredentialUse | undefined,
  ): boolean {
    const open = session.standing.challenge;
    if (open === undefined) return false;
    const isCopy = use?.origins.hasOther(facts.sourceAddress) ?? false;
    const answer = answerOf(open, facts, identity, isCopy);
    if (answer === "answered") {
      const { token } = facts.presented;
      this.discharge(session, open, facts.time, token.kind === "verified" ? token.acr : undefined);
      return true;
    }
    // Nobody can ignore a challenge that the service may never have put.
    if (open.kind === "forward" || answer === "other") return false;
    // Another credential that is no answer neither answers nor ignores: it was not what was challenged.
    const ignored = identity.credential === open.credential && facts.time - open.issuedAtMs >= ANSWER_GRACE_MS;
    if (ignored || answer === "failed") session.standing.tries++;
    return false;
  }

  private discharge(session: Session, answered: OpenChallenge, now: EpochMs, acr: string | undefined): void {
    session.standing.challenge = undefined;
    session.standing.tries = 0;
    session.standing.denials = 0;
    session.standing.answeredScore = Math.max(session.standing.answeredScore, answered.score);
    session.standing.answeredAcr = acr;
    session.standing.dischargedUntilMs = now + answered.policy.dischargeMs;
    for (const signal of SIGNALS) if (signal.discharged) forget(session, signal.name);
  }

  private carryOut(
    verdict: Verdict,
    facts: RequestFacts,
    policy: Policy,
    put: ChallengePolicy,
    session: Session,
  ): void {
    const open = session.standing.challenge;
    const forwarded = open?.kind === "forward";
    // One that was put here is not replaced by one that is left to the service.
    const opens =
      verdict.decision.kind === "challenge" &&
      (verdict.enforced === "challenge" ||
        (verdict.mode === "enforce" && (open === undefined || forwarded || facts.time > open.expiresAtMs)));
    if (opens && verdict.decision.kind === "challenge") {
      session.standing.challenge = {
        issuedAtMs: open === undefined || forwarded ? facts.time : open.issuedAtMs,
        credential: verdict.identity.credential,
        score: verdict.score,
        issuedAfterMs: verdict.decision.challenge.issuedAfter,
        expiresAtMs: facts.time + put.ttlMs,
        kind: verdict.decision.challenge.kind,
        policy: put,
      };
    }
    const { standing } = session;
    if (verdict.enforced !== "allow" && standing.challenge !== undefined) {
      // Whoever is refused may still answer, however late: an owner gets back in with its next token.
      standing.challenge = { ...standing.challenge, expiresAtMs: facts.time + standing.challenge.policy.ttlMs };
    }
    if (verdict.enforced === "deny") standing.denials++;
    if (verdict.enforced !== "terminate" || verdict.decision.kind !== "terminate") return;
    if (verdict.decision.because === "lock" || verdict.identity.credential === "none") return;
    this.locks.add({
      id: `auto-${++this.autoLocks}-${verdict.decisionId.slice(-12)}`,
      scope: autoScopeOf(verdict.identity, facts, policy.autoLockScope),
      reason: `score ${verdict.score} in decision ${verdict.decisionId}`,
      setBy: "auto",
      setAtMs: facts.time,
      expiresAtMs: facts.time + policy.autoLockMs,
    });
  }

  private postureOf(
    identity: Identity,
    facts: RequestFacts,
    policy: Policy,
    peer: ReturnType<Workloads["peerOf"]>,
  ): PostureFacts | undefined {
    const stated = this.statedPosture(identity, facts, policy);
    if (this.workloads.size === 0 || !identity.proven) return stated;
    const known = this.workloads.factsOf(identity.principal.name, peer, facts.time);
    if (known === undefined || stated === undefined) return stated ?? known;
    // What the cluster says of itself wins over what somebody said of it; the age stays that of the older part.
    return {
      facts: { ...stated.facts, ...known.facts },
      source: `${stated.source}, ${known.source}`,
      reportedAtMs: Math.min(stated.reportedAtMs, known.reportedAtMs),
    };
  }

  private statedPosture(identity: Identity, facts: RequestFacts, policy: Policy): PostureFacts | undefined {
    if (this.posture.size === 0 && policy.postureFacts.size === 0) return undefined;
    let newest: PostureFacts | undefined;
    for (const subject of [identity.principal.name, facts.sourceAddress]) {
      if (subject === undefined || (subject === identity.principal.name && !identity.proven)) continue;
      for (const found of [this.posture.get(subject), policy.postureFacts.get(subject)]) {
        if (found !== undefined && (newest === undefined || found.reportedAtMs > newest.reportedAtMs)) newest = found;
      }
    }
    return newest;
  }
}

/**
 * What a termination locks. Without more being asked for, the narrowest scope that separates a thief from the owner:
 * this credential from this origin. What was not proven names nobody, whatever the policy asks for: whoever forges a
 * token would choose whom to lock out.
 */
function autoScopeOf(identity: Identity, facts: RequestFacts, wanted: AutoLockScope): LockScope {
  const { credential, principal, proven } = identity;
  if (proven && wanted === "principal") return { principal: principal.name };
  if (proven && wanted === "credential") return { credential };
  return {
    credential,
    ...(facts.sourceAddress === undefined ? {} : { address: facts.sourceAddress }),
    ...(facts.tls.ja4 === undefined ? {} : { fingerprint: facts.tls.ja4 }),
  };
}

/** What a request is judged for: to be answered; to see what would be; anew; or by what its session stands at. */
type How = "live" | "preview" | "review" | "standing";

/** All that judging one request came to. */
interface Judged {
  /** Whether the request is held where its rule does not say. */
  readonly lasts: boolean;
  readonly context: SignalContext;
  readonly rule: Rule | undefined;
  readonly thresholds: Thresholds;
  /** How a challenge is put to this request. */
  readonly put: ChallengePolicy;
  readonly mode: Mode;
  readonly scored: Scored;
  readonly decision: Decision;
  readonly basis: Verdict["basis"];
  readonly answered: boolean;
  readonly discharged: boolean;
  readonly seasoned: boolean;
  readonly closedWindow: Lesson["closedWindow"];
  readonly newSignals: readonly string[];
  readonly peerGroup: string | undefined;
  readonly conditionErrors: readonly string[];
}

function verdictOf(judged: Judged, id: string, facts: RequestFacts, policy: Policy): Verdict {
  const { context, rule, scored, decision, mode, conditionErrors } = judged;
  const forwarded = decision.kind === "challenge" && decision.challenge.kind === "forward";
  const verdict: Writable<Verdict> = {
    decisionId: id,
    time: facts.time,
    identity: context.identity,
    score: scored.score,
    reasons: scored.reasons,
    decision,
    enforced: mode === "enforce" && !forwarded ? decision.kind : "allow",
    mode,
    rule: rule?.name ?? "default",
    thresholds: judged.thresholds,
    ruleThresholds: rule?.thresholds,
    policyName: policy.name,
    policyRevision: policy.revision,
    route: context.route,
    answered: judged.answered,
    watch: rule?.watch ?? judged.lasts,
    peerGroup: judged.peerGroup,
  };
  if (conditionErrors.length > 0) verdict.conditionErrors = conditionErrors;
  if (rule?.response !== undefined) verdict.response = rule.response;
  if (judged.basis !== undefined) verdict.basis = judged.basis;
  return verdict;
}

type Writable<Value> = { -readonly [Key in keyof Value]: Value[Key] };

/** What conditions of rules may ask of a request before its score is known. */
function askedOf(
  facts: RequestFacts,
  identity: Identity,
  route: string,
  peerGroup: string | undefined,
  posture: PostureFacts | undefined,
  geo: Policy["geo"],
): Asked {
  const template = route.startsWith(`${facts.method} `) ? route.slice(facts.method.length + 1) : route;
  const place = () => (facts.sourceAddress === undefined ? NOWHERE : geo.place(facts.sourceAddress));
  return { facts, identity, route: template, peerGroup, posture, place, scored: undefined };
}

function stage(policy: Policy, asked: Asked): Staged {
  const { destination, method, path } = asked.facts;
  const matched = { destination, method, path, template: asked.route, principal: asked.identity.principal.name };
  return stageRules(policy, { ...matched, peerGroup: asked.peerGroup }, asked);
}

/** Counts one request of its session. */
function noteRequest(session: Session, { facts, origin, route, baseline }: SignalContext): void {
  session.requests++;
  session.lastSeenMs = Math.max(session.lastSeenMs, facts.time);
  session.agent = origin.agent ?? "none";
  session.fingerprint = origin.fingerprint;
  session.windowRequests++;
  noteRoute(session, route, baseline !== undefined && !baseline.habits.has(HABIT.route, route));
}

interface GatheredEvidence {
  readonly evidence: Evidence[];
  readonly certain: { kind: "deny" | "terminate"; because: string; signal: string } | undefined;
  readonly newSignals: readonly string[];
}

/**
 * Reads every signal and adds it to what the session has gathered.
 * @param how in a `review` the request was read before: only what holds now, and what decides by itself, counts anew; for a
 *   `standing` judgement nothing else is read
 */
function gatherAll(context: SignalContext, second: Baseline | undefined, now: EpochMs, how: How): GatheredEvidence {
  const again = how === "review" || how === "standing";
  const { policy, session } = context;
  const evidence: Evidence[] = [];
  const newSignals: string[] = [];
  let certain: GatheredEvidence["certain"];
  const discharged = now < session.standing.dischargedUntilMs;
  for (const { signal, read, counted, capBits } of planOf(policy).readings) {
    // What decides by itself holds now, always.
    let reading = how === "standing" && signal.gathering !== "now" ? UNREAD : read(context);
    if (second !== undefined && context.baseline !== second && reading !== UNREAD) {
      // Certificate and token name different subjects: whoever finds the request stranger speaks.
      const other = read({ ...context, baseline: second });
      if (other.kind === "present" && (reading.kind !== "present" || other.bits > reading.bits)) reading = other;
    }
    const present = reading?.kind === "present" ? reading : undefined;
    if (present?.certain !== undefined) {
      evidence.push({ signal: signal.name, bits: 64, seen: present.seen, expected: present.expected, counted });
      if (counted && certain === undefined) {
        certain = { kind: present.certain, because: signal.name, signal: signal.name };
      }
      continue;
    }
    if (discharged && signal.discharged) continue;
    if (present !== undefined && present.bits >= NOTICED_BITS && signal.cause !== undefined) {
      newSignals.push(causeKey(signal.name, signal.cause(context)));
    }
    const fresh = again ? undefined : present;
    const bits = signal.gathering === "now" ? (present?.bits ?? 0) : gatherOver(session, signal, fresh, now, again);
    if (Math.abs(bits) < READING_SHOWN_BITS) continue;
    const held = session.gathered?.get(signal.name);
    evidence.push({
      signal: signal.name,
      bits: Math.min(capBits, bits),
      seen: (signal.gathering === "now" ? present?.seen : held?.seen) ?? "",
      expected: (signal.gathering === "now" ? present?.expected : held?.expected) ?? "",
      counted,
    });
  }
  return { evidence, certain, newSignals };
}

/** Whether the latest answer is one that this challenge would take too: another rule may have asked for more. */
function isStrongEnough({ acrValues }: ChallengePolicy, { standing }: Session): boolean {
  return acrValues.length === 0 || (standing.answeredAcr !== undefined && acrValues.includes(standing.answeredAcr));
}

/** What a request teaches of arrivals: each hour of a session once, since its requests are no independent witnesses. */
function arrivalOf({ peer, facts }: SignalContext, session: Session, now: EpochMs): Lesson["arrival"] {
  if (peer === undefined || session.arrivalHour === Math.floor(now / HOUR_MS)) return undefined;
  return facts.presented.certificate?.via === "xfcc" ? undefined : peer.kind;
}

/** Bits by signal, as they add to the score, or would. */
function readingsOf(evidence: readonly Evidence[]): ReadonlyMap<string, number> {
  return new Map(evidence.map(({ signal, bits }) => [signal, bits]));
}

/** Names what a signal noticed, so that others who show the same can be counted. */
function causeKey(signal: string, value: string): string {
  return `${signal}|${value}`;
}

function gatherOver(
  session: Session,
  signal: Signal,
  reading: { bits: number; seen: string; expected: string } | undefined,
  now: EpochMs,
  again: boolean,
): number {
  if (reading !== undefined && reading.bits > 0) {
    if (signal.name === "usage.rate") session.windowRateBits += reading.bits;
    if (signal.name === "usage.spread") session.windowSpreadBits += reading.bits;
  }
  return gather(session, signal, reading, now, again ? 0 : 1);
}

/** Starts a new rate window when the old one is over; returns the counts of the old one. */
function rollWindow(session: Session, now: EpochMs): Lesson["closedWindow"] {
  if (now - session.windowStartMs < RATE_WINDOW_MS) return undefined;
  const closed =
    session.windowRequests === 0 ? undefined : { requests: session.windowRequests, routes: session.windowRoutes.size };
  session.windowStartMs = now;
  session.windowRequests = 0;
  session.windowRoutes.clear();
  session.windowRateBits = 0;
  session.windowSpreadBits = 0;
  return closed;
}

function onlyRate(reasons: readonly { readonly signal: string; readonly points: number }[]): boolean {
  let rate = false;
  for (const reason of reasons) {
    if (reason.points <= 0 || reason.signal === "challenge.unanswered") continue;
    if (reason.signal !== "usage.rate") return false;
    rate = true;
  }
  return rate;
}

function summarize(baseline: Baseline): PrincipalSummary {
  return {
    principal: baseline.principal,
    requests: baseline.requests,
    firstSeenMs: baseline.firstSeenMs,
    lastSeenMs: baseline.lastSeenMs,
    features: HABIT_NAMES.map((feature) => ({
      feature,
      values: baseline.habits.size(HABIT[feature]),
      top: baseline.habits.top(HABIT[feature], 3),
    })),
  };
}
