/** Which bundle a sidecar should have: channels, their selectors and canaries. Pure functions over the stored state. */

import { createHash } from "node:crypto";
import { clone, create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import {
  type BundleRef,
  CanarySchema,
  ChangeSchema,
  type Channel,
  ChannelSchema,
  type Selector,
  SelectorSchema,
} from "../gen/sallyport/control/v1/control_pb.ts";
import { OperatingError } from "../model/errors.ts";

/** The channel of sidecars that no other one is for; it is always there. */
export const DEFAULT_CHANNEL = "default";

/** Most channels; a further one is refused. */
export const CHANNELS_MAX = 1_000;

/** Most selectors of one canary. */
const SELECTORS_MAX = 32;

export type Labels = Readonly<Record<string, string>>;

/** A sidecar as far as its target depends on it. */
export interface Member {
  readonly sidecarId: string;
  readonly labels: Labels;
}

/** Who changes something, and when. */
export interface Author {
  readonly by: string;
  readonly atMs: number;
}

export function newChannel(name: string): Channel {
  return create(ChannelSchema, { name, selector: {} });
}

/** The channel that has the sidecar: the matching one with the most labels, the first by name among equals. */
export function channelOf(channels: Iterable<Channel>, labels: Labels): Channel | undefined {
  let best: Channel | undefined;
  for (const channel of channels) {
    if (!matches(channel.selector, labels)) continue;
    const ahead = best === undefined ? 1 : size(channel) - size(best);
    if (ahead > 0 || (ahead === 0 && channel.name < best!.name)) best = channel;
  }
  return best;
}

function size({ selector, name }: Channel): number {
  // The default channel yields to every other one, whatever its selector.
  return name === DEFAULT_CHANNEL ? -1 : Object.keys(selector?.labels ?? {}).length;
}

/** Whether the labels hold all that the selector names. An empty selector matches everyone. */
export function matches(selector: Selector | undefined, labels: Labels): boolean {
  return Object.entries(selector?.labels ?? {}).every(
    ([key, value]) => Object.hasOwn(labels, key) && labels[key] === value,
  );
}

export function inCanary({ canary }: Channel, { sidecarId, labels }: Member): boolean {
  if (canary === undefined) return false;
  return placeOf(sidecarId) < canary.share || canary.selectors.some((selector) => matches(selector, labels));
}

/** Where a sidecar stands among all, 0 to below 100: the same forever, so that widening a canary only adds to it. */
export function placeOf(sidecarId: string): number {
  return (createHash("sha256").update(sidecarId).digest().readUInt32BE(0) / 2 ** 32) * 100;
}

/** What the sidecar should have; `undefined`: its channel has nothing for it. */
export function targetOf(channel: Channel, member: Member): BundleRef | undefined {
  return inCanary(channel, member) ? channel.canary!.candidate : channel.stable;
}

/** Whether a sidecar that has `has` would refuse `target` as a rollback. A later root may begin revisions anew. */
export function isAhead(has: BundleRef | undefined, target: BundleRef): boolean {
  if (has === undefined || has.name !== target.name || target.rootVersion > has.rootVersion) return false;
  return has.revision > target.revision;
}

/** Every bundle that may still be handed out, or be the base of a difference. */
export function keptOf(channels: Iterable<Channel>): ReadonlySet<string> {
  const digests = new Set<string>();
  for (const channel of channels) {
    for (const ref of [channel.stable, channel.canary?.candidate, ...channel.kept]) {
      if (ref !== undefined) digests.add(ref.digest);
    }
  }
  return digests;
}

/** A verified bundle that is to be put on a channel. */
export interface Candidate {
  readonly ref: BundleRef;
  /** The trust that its verification led to, as text. */
  readonly trust: string;
  /** A later root has begun revisions anew, and this is of that root. */
  readonly restarts: boolean;
}

/**
 * @throws {OperatingError} ERR_CONTROL when a canary is under way, ERR_BUNDLE_ROLLBACK when the revision is not higher
 *   than all before
 */
export function published(channel: Channel, candidate: Candidate, keptMax: number, author: Author): Channel {
  if (channel.canary !== undefined) throw canaryUnderWay(channel);
  admit(channel, candidate);
  const next = taken(channel, candidate, keptMax);
  next.stable = candidate.ref;
  return signed(next, author, `publish ${refText(candidate.ref)}`);
}

/** @throws {OperatingError} as {@link published}, and ERR_CONTROL for a canary that nobody would be in */
export function canaryStarted(
  channel: Channel,
  candidate: Candidate,
  who: { readonly share: number; readonly selectors: readonly Selector[] },
  keptMax: number,
  author: Author,
): Channel {
  if (channel.canary !== undefined) throw canaryUnderWay(channel);
  if (who.share === 0 && who.selectors.length === 0) {
    throw refusal(channel, "a canary needs a share above 0 or a selector");
  }
  admit(channel, candidate);
  const next = taken(channel, candidate, keptMax);
  next.canary = create(CanarySchema, {
    candidate: candidate.ref,
    share: who.share,
    selectors: who.selectors.map((selector) => clone(SelectorSchema, selector)),
    startedAt: timestampFromMs(author.atMs),
  });
  return signed(next, author, `start canary ${refText(candidate.ref)} for ${shareText(next)}`);
}

/** @throws {OperatingError} ERR_CONTROL without a canary, or for a smaller share: who has the candidate keeps it */
export function canaryWidened(
  channel: Channel,
  who: { readonly share: number; readonly selectors: readonly Selector[] },
  author: Author,
): Channel {
  const { canary } = channel;
  if (canary === undefined) throw noCanary(channel);
  if (who.share < canary.share) {
    throw refusal(
      channel,
      `expected a share of at least ${canary.share}, got ${who.share}: sidecars that have the candidate keep it`,
    );
  }
  if (canary.selectors.length + who.selectors.length > SELECTORS_MAX) {
    throw refusal(channel, `a canary has at most ${SELECTORS_MAX} selectors`);
  }
  const next = clone(ChannelSchema, channel);
  next.canary!.share = who.share;
  next.canary!.selectors.push(...who.selectors.map((selector) => clone(SelectorSchema, selector)));
  return signed(next, author, `widen canary ${refText(canary.candidate)} to ${shareText(next)}`);
}

/** @throws {OperatingError} ERR_CONTROL without a canary */
export function canaryPromoted(channel: Channel, author: Author): Channel {
  const candidate = channel.canary?.candidate;
  if (candidate === undefined) throw noCanary(channel);
  const next = clone(ChannelSchema, channel);
  next.stable = candidate;
  delete next.canary;
  return signed(next, author, `promote ${refText(candidate)}`);
}

/**
 * Ends the spreading of a candidate. Its revision stays the highest: what is published next must be higher still, since
 * the sidecars that have it take nothing lower.
 * @throws {OperatingError} ERR_CONTROL without a canary
 */
export function canaryAborted(channel: Channel, author: Author): Channel {
  const candidate = channel.canary?.candidate;
  if (candidate === undefined) throw noCanary(channel);
  const next = clone(ChannelSchema, channel);
  delete next.canary;
  return signed(next, author, `abort canary ${refText(candidate)}`);
}

/** What an operator does after an abort. */
export function afterAbort(aborted: BundleRef, stable: BundleRef | undefined, holders: number): string {
  const higher = `${aborted.name} ${aborted.revision + 1n}`;
  if (stable === undefined) {
    return `${holders} reported sidecars hold ${refText(aborted)} and keep it. Publish what they should have as ${higher} or higher.`;
  }
  return (
    `${holders} reported sidecars hold ${refText(aborted)} and keep it: no sidecar takes a lower revision. ` +
    `To bring them back, publish the contents of ${refText(stable)} under a higher revision: ` +
    `sallyport bundle build --from OLD --revision ${aborted.revision + 1n}`
  );
}

export function selectorSet(channel: Channel, selector: Selector | undefined, author: Author): Channel {
  if (channel.name === DEFAULT_CHANNEL && Object.keys(selector?.labels ?? {}).length > 0) {
    throw refusal(channel, "it is for the sidecars that no other channel is for, and has no selector");
  }
  const next = clone(ChannelSchema, channel);
  next.selector = create(SelectorSchema, { labels: selector?.labels ?? {} });
  return signed(next, author, `set selector ${selectorText(next.selector)}`);
}

export function selectorText(selector: Selector | undefined): string {
  const pairs = Object.entries(selector?.labels ?? {}).sort(([a], [b]) => (a < b ? -1 : 1));
  return pairs.length === 0 ? "everyone" : pairs.map(([key, value]) => `${key}=${value}`).join(",");
}

export function refText(ref: BundleRef | undefined): string {
  return ref === undefined || ref.revision === 0n ? "nothing" : `${ref.name}:${ref.revision}`;
}

export function shareText({ canary }: Channel): string {
  if (canary === undefined) return "nobody";
  const parts = canary.share > 0 ? [`${canary.share} %`] : [];
  return [...parts, ...canary.selectors.map(selectorText)].join(" or ");
}

function admit(channel: Channel, { ref, restarts }: Candidate): void {
  const { highest } = channel;
  if (highest === undefined) return;
  if (highest.name !== ref.name) {
    throw refusal(channel, `expected the bundle ${highest.name}, got ${ref.name}; a channel carries one bundle`);
  }
  const same = highest.revision === ref.revision && highest.digest === ref.digest;
  // The same bundle again is welcome: a publish that was answered too late is tried again.
  if (same || restarts || ref.revision > highest.revision) return;
  throw new OperatingError(
    "ERR_BUNDLE_ROLLBACK",
    `channel ${channel.name}: expected a revision of ${ref.name} above ${highest.revision}, got ${ref.revision}` +
      (highest.revision === ref.revision ? " with other contents" : ""),
  );
}

function taken(channel: Channel, { ref, trust }: Candidate, keptMax: number): Channel {
  const next = clone(ChannelSchema, channel);
  next.highest = ref;
  next.trust = trust;
  next.kept = [ref, ...next.kept.filter(({ digest }) => digest !== ref.digest)].slice(0, keptMax);
  return next;
}

function signed(channel: Channel, { by, atMs }: Author, what: string): Channel {
  channel.lastChange = create(ChangeSchema, { at: timestampFromMs(atMs), by, what });
  return channel;
}

function canaryUnderWay(channel: Channel): OperatingError {
  return refusal(channel, `a canary of ${refText(channel.canary?.candidate)} is under way; promote or abort it first`);
}

function noCanary(channel: Channel): OperatingError {
  return refusal(channel, "no canary is under way");
}

function refusal({ name }: Channel, why: string): OperatingError {
  return new OperatingError("ERR_CONTROL", `channel ${name}: ${why}`);
}
