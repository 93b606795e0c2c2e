/** Finds the rule that counts for a request, among ten thousand, and the peer group of its principal. */

import { CALLERS_MAX } from "../model/limits.ts";
import type { Asked, Glob, PeerGroup, Policy, Rule } from "../model/policy.ts";
import { GlobIndex } from "./glob-index.ts";

/** What rules are matched by. */
export interface Matched {
  readonly destination: string;
  readonly method: string;
  readonly path: string;
  /** Template of the path, without the method. */
  readonly template: string;
  readonly principal: string;
  readonly peerGroup: string | undefined;
}

/** What is known of the rules before the score is. */
export interface Staged {
  /** The first rule that matches, of those whose conditions need no score. */
  readonly rule: Rule | undefined;
  /** Rules before it whose conditions need the score, in order. */
  readonly open: readonly Rule[];
  /** Names of rules whose conditions could not be evaluated. */
  readonly errors: readonly string[];
}

/**
 * The first stage, before the score is known: the first rule that matches of those that do not ask for the score. Its
 * signals count. The second stage, {@link finishRules}, looks whether an earlier one that does ask for it matches.
 */
export function stageRules(policy: Policy, matched: Matched, asked: Asked): Staged {
  if (policy.rules.length === 0) return NONE;
  const open: Rule[] = [];
  const errors: string[] = [];
  for (const rule of indexOf(policy.rules).candidates(matched)) {
    if (rule.when?.needsScore === true) open.push(rule);
    else if (holds(rule, asked, errors)) return { rule, open, errors };
  }
  return { rule: undefined, open, errors };
}

const NONE: Staged = { rule: undefined, open: [], errors: [] };

/** The rule that counts, once the score is known. */
export function finishRules(staged: Staged, asked: () => Asked): Pick<Staged, "rule" | "errors"> {
  if (staged.open.length === 0) return staged;
  const errors = [...staged.errors];
  const known = asked();
  const rule = staged.open.find((candidate) => holds(candidate, known, errors)) ?? staged.rule;
  return { rule, errors };
}

function holds({ name, when }: Rule, asked: Asked, errors: string[]): boolean {
  if (when === undefined) return true;
  const fulfilled = when.evaluate(asked);
  if (fulfilled === undefined) errors.push(name);
  return fulfilled ?? when.onError;
}

/** Conditions planned between two pauses: a few milliseconds of work. */
const PREPARED_AT_ONCE = 16;
/** Rules filed in the index between two pauses. */
const FILED_AT_ONCE = 256;

/**
 * Makes a policy's rules ready before it is put in force, so that the first request under it pays for none of it.
 * @param pause lets others go on in between
 */
export async function prepareRules(policy: Policy, pause: () => Promise<void>): Promise<void> {
  if (policy.rules.length === 0) return;
  const index = indexOf(policy.rules);
  while (index.fileMore(FILED_AT_ONCE)) await pause();
  let planned = 0;
  for (const { when } of policy.rules) {
    if (when === undefined) continue;
    when.prepare();
    if (++planned % PREPARED_AT_ONCE === 0) await pause();
  }
}

/** Name of the first group that has the principal; `undefined` without one. */
export function peerGroupOf(policy: Policy, principal: string): string | undefined {
  if (policy.peerGroups.length === 0) return undefined;
  let groups = groupIndexes.get(policy.peerGroups);
  if (groups === undefined) {
    groups = new Groups(policy.peerGroups);
    groupIndexes.set(policy.peerGroups, groups);
  }
  return groups.of(principal);
}

/** Indexes live as long as the rules that they are of: they go with a replaced policy. */
const ruleIndexes = new WeakMap<readonly Rule[], RuleIndex>();
const groupIndexes = new WeakMap<readonly PeerGroup[], Groups>();

function indexOf(rules: readonly Rule[]): RuleIndex {
  let index = ruleIndexes.get(rules);
  if (index === undefined) {
    index = new RuleIndex(rules);
    ruleIndexes.set(rules, index);
  }
  return index;
}

/** Principals whose group is remembered; all are forgotten when there are more. */
const PRINCIPALS_MAX = CALLERS_MAX;

class Groups {
  private readonly names: readonly string[];
  private readonly index = new GlobIndex();
  private readonly known = new Map<string, string | undefined>();

  constructor(groups: readonly PeerGroup[]) {
    this.names = groups.map(({ name }) => name);
    for (const [owner, { principals }] of groups.entries()) {
      for (const glob of principals) this.index.add(glob, owner);
    }
  }

  of(principal: string): string | undefined {
    if (this.known.has(principal)) return this.known.get(principal);
    const owners = new Set<number>();
    this.index.collect(principal, owners);
    let first = this.names.length;
    for (const owner of owners) first = Math.min(first, owner);
    const name = this.names[first];
    if (this.known.size >= PRINCIPALS_MAX) this.known.clear();
    this.known.set(principal, name);
    return name;
  }
}

/** Rules held in all remembered lists of candidates together; all are forgotten when there are more. */
const REMEMBERED_MAX = 65_536;
/** Lists under longer keys are found anew each time. */
const KEY_CHARS_MAX = 512;

/**
 * Candidates for a request: the rules that match it but for their conditions, up to the first that has none. Each rule
 * is found by one part of its match, the narrowest; the other parts are then tested.
 */
class RuleIndex {
  private readonly rules: readonly Rule[];
  private readonly principals = new GlobIndex();
  private readonly routes = new GlobIndex();
  private readonly destinations = new GlobIndex();
  private readonly groups = new Map<string, number[]>();
  /** Rules that none of these finds. */
  private readonly others: number[] = [];
  private readonly remembered = new Map<string, readonly Rule[]>();
  private rememberedRules = 0;

  private filed = 0;

  constructor(rules: readonly Rule[]) {
    this.rules = rules;
  }

  /** Files up to so many further rules; false once all are filed. */
  fileMore(most: number): boolean {
    const end = Math.min(this.rules.length, this.filed + most);
    for (; this.filed < end; this.filed++) this.file(this.rules[this.filed]!, this.filed);
    return this.filed < this.rules.length;
  }

  candidates(matched: Matched): readonly Rule[] {
    if (this.filed < this.rules.length) this.fileMore(this.rules.length);
    const { destination, method, path, template, principal, peerGroup = "" } = matched;
    const key = `${principal}\n${peerGroup}\n${destination}\n${method}\n${template}\n${path}`;
    const known = this.remembered.get(key);
    if (known !== undefined) return known;
    const found = this.find(matched);
    if (key.length > KEY_CHARS_MAX) return found;
    this.rememberedRules += found.length + 1;
    if (this.rememberedRules > REMEMBERED_MAX) {
      this.remembered.clear();
      this.rememberedRules = found.length + 1;
    }
    if (found.length < REMEMBERED_MAX) this.remembered.set(key, found);
    return found;
  }

  private file({ match }: Rule, position: number): void {
    const choices: readonly (readonly [GlobIndex, readonly Glob[]])[] = [
      [this.principals, match.principals],
      [this.routes, match.routes],
      [this.destinations, match.destinations],
    ];
    let best: (typeof choices)[number] | undefined;
    let bestWidth = match.peerGroups.length > 0 ? GROUP_WIDTH : OTHER_WIDTH;
    for (const choice of choices) {
      const width = widthOf(choice[1]);
      if (width >= bestWidth) continue;
      best = choice;
      bestWidth = width;
    }
    if (best !== undefined) for (const glob of best[1]) best[0].add(glob, position);
    else if (match.peerGroups.length === 0) this.others.push(position);
    else {
      for (const name of match.peerGroups) {
        const filed = this.groups.get(name);
        if (filed === undefined) this.groups.set(name, [position]);
        else filed.push(position);
      }
    }
  }

  private find(matched: Matched): readonly Rule[] {
    const positions = new Set<number>();
    this.principals.collect(matched.principal, positions);
    this.routes.collect(matched.path, positions);
    if (matched.template !== matched.path) this.routes.collect(matched.template, positions);
    this.destinations.collect(matched.destination, positions);
    if (matched.peerGroup !== undefined) {
      for (const position of this.groups.get(matched.peerGroup) ?? []) positions.add(position);
    }
    const filed = [...positions].sort((a, b) => a - b);
    const found: Rule[] = [];
    let next = 0;
    let other = 0;
    while (next < filed.length || other < this.others.length) {
      const position =
        (filed[next] ?? Number.POSITIVE_INFINITY) < (this.others[other] ?? Number.POSITIVE_INFINITY)
          ? filed[next++]!
          : this.others[other++]!;
      const rule = this.rules[position]!;
      if (!matches(rule, matched)) continue;
      found.push(rule);
      if (rule.when === undefined) break;
    }
    return found;
  }
}

/** How many texts a list of globs may match, roughly: none of them as wide as peer groups or nothing at all. */
const GROUP_WIDTH = 50;
const OTHER_WIDTH = 100;

function widthOf(globs: readonly Glob[]): number {
  if (globs.length === 0) return OTHER_WIDTH;
  let width = 0;
  for (const { text } of globs) {
    const wildcard = text.indexOf("*");
    width = Math.max(width, wildcard === -1 ? 1 : wildcard === 0 ? OTHER_WIDTH - 1 : Math.max(2, 40 - wildcard));
  }
  return width;
}

function matches({ match }: Rule, { destination, method, path, template, principal, peerGroup }: Matched): boolean {
  const { destinations, routes, methods, principals, peerGroups } = match;
  if (methods.length > 0 && !methods.includes(method)) return false;
  if (peerGroups.length > 0 && (peerGroup === undefined || !peerGroups.includes(peerGroup))) return false;
  if (destinations.length > 0 && !destinations.some((glob) => glob.test(destination))) return false;
  if (routes.length > 0 && !routes.some((glob) => glob.test(path) || glob.test(template))) return false;
  return principals.length === 0 || principals.some((glob) => glob.test(principal));
}
