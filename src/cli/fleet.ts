/** `sallyport fleet`: what operators do with a control plane. */

import { createHash, randomBytes } from "node:crypto";
import { readFileSync, statSync } from "node:fs";
import { setTimeout as pause } from "node:timers/promises";
import { type DescMessage, type MessageShape, toJson } from "@bufbuild/protobuf";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { BUNDLE_BYTES_MAX } from "../bundle/bundle-file.ts";
import { suggest } from "../bundle/problem.ts";
import { DURATION_EXPECTED, parseDuration } from "../bundle/scalars.ts";
import { DEFAULT_CHANNEL, refText, selectorText, shareText } from "../control/channels.ts";
import {
  AbortCanaryResponseSchema,
  type Channel,
  ChannelSchema,
  type ChannelSummary,
  ListSidecarsResponseSchema,
  PublishResponseSchema,
  type Sidecar,
  StartCanaryResponseSchema,
  WatchFleetResponseSchema,
} from "../gen/sallyport/control/v1/control_pb.ts";
import { OperatingError } from "../model/errors.ts";
import { type Command, EXIT_BAD, EXIT_GOOD, type Invocation, type Terminal, usage } from "./command.ts";
import { asking, FLEET_FLAGS, type FleetClient, fleetClient, fleetError } from "./fleet-client.ts";
import { lockJson, lockText, readLockFlags, SCOPE_FLAGS } from "./locks.ts";

const TOKEN_BYTES = 32;
const PAGE = 1_000;
/** How often `--wait` looks. */
const WAIT_POLL_MS = 1_000;

type Action = (client: FleetClient, invocation: Invocation, terminal: Terminal) => Promise<number>;

/** Each with the number of arguments after its name. */
const ACTIONS: Readonly<Record<string, { readonly arguments: readonly [number, number]; readonly run: Action }>> = {
  status: { arguments: [0, 0], run: status },
  channels: { arguments: [0, 1], run: channels },
  publish: { arguments: [1, 1], run: publish },
  canary: { arguments: [0, 1], run: canary },
  promote: { arguments: [0, 0], run: promote },
  abort: { arguments: [0, 0], run: abort },
  watch: { arguments: [0, 0], run: watch },
  lock: { arguments: [0, 0], run: lock },
  unlock: { arguments: [1, 1], run: unlock },
  locks: { arguments: [0, 0], run: locks },
};

export const fleetCommand: Command = {
  name: "fleet",
  arguments:
    "status|channels [NAME]|publish BUNDLE|canary [BUNDLE]|promote|abort|watch|lock|unlock LOCK_ID|locks|token NAME",
  positionals: [1, 2],
  summary: [
    "See and change what a control plane offers to its sidecars.",
    "",
    "status: sidecars and what they have in force; exit status 1 when one is lagging or failing, or none has reported yet.",
    "channels: all channels; with NAME and --selector, makes the channel or changes whom it is for.",
    "publish: offers a bundle to all sidecars of a channel.",
    "canary: offers a bundle to some of them; without BUNDLE, widens the canary under way.",
    "promote: offers the canary's bundle to all. abort: offers it to no further ones.",
    "watch: the channels in numbers, as they change.",
    "lock: refuses and terminates, at every sidecar, all that matches every part of the scope given.",
    "unlock: takes such a lock away. locks: lists them.",
    "token: makes a bearer token, and the lines for the control plane's file of tokens.",
  ].join("\n"),
  flags: [
    { name: "channel", value: "NAME", summary: `The channel; ${DEFAULT_CHANNEL} by default (status: all).` },
    {
      name: "selector",
      value: "LABELS",
      summary: "Labels, as env=prod,zone=a. With canary: several, separated by semicolons.",
    },
    { name: "share", value: "PERCENT", summary: "With canary: percentage of the channel's sidecars, 0 to 100." },
    { name: "revision", value: "NUMBER", summary: "With status: only sidecars with this revision in force." },
    {
      name: "lagging",
      value: undefined,
      summary: "With status: only sidecars that have not in force what they should have.",
    },
    {
      name: "failing",
      value: undefined,
      summary: "With status: only sidecars that are stale, expired, or refuse what they are offered.",
    },
    {
      name: "wait",
      value: "DURATION",
      summary: "With status: look again until sidecars are known and all are current, at most this long.",
    },
    { name: "role", value: "ROLE", summary: "With token: sidecar, viewer or operator; sidecar by default." },
    { name: "count", value: "COUNT", summary: "With watch: end after this many pictures." },
    ...SCOPE_FLAGS.map(({ name, value, summary }) =>
      name === "key"
        ? { name: "lock-key", value, summary: `With lock: ${summary}` }
        : { name, value, summary: `With lock: ${summary}` },
    ),
    { name: "reason", value: "TEXT", summary: "With lock: why; shown in decisions and logs. Needed." },
    { name: "for", value: "DURATION", summary: "With lock: how long, such as 30m or 12h; without it until unlocked." },
    ...FLEET_FLAGS,
  ],
  run: async (invocation, terminal) => {
    const [name, ...rest] = invocation.positionals;
    if (name === "token") return token(rest[0], invocation, terminal);
    const action = ACTIONS[name!];
    if (action === undefined) {
      throw usage(`fleet: expected ${Object.keys(ACTIONS).join(", ")} or token, got ${JSON.stringify(name)}`);
    }
    const [least, most] = action.arguments;
    if (rest.length < least || rest.length > most) {
      throw usage(
        `fleet ${name}: expected ${least === most ? least : `${least} to ${most}`} arguments, got ${rest.length}`,
      );
    }
    return action.run(fleetClient(invocation, terminal), invocation, terminal);
  },
};

async function status(client: FleetClient, invocation: Invocation, terminal: Terminal): Promise<number> {
  const { values, json } = invocation;
  const waitMs = values.wait === undefined ? 0 : waitOf(values.wait);
  const untilMs = performance.now() + waitMs;
  await requireChannel(client, values.channel);
  let seen = await sidecarsOf(client, invocation);
  while (!isWell(seen) && performance.now() < untilMs) {
    await pause(Math.min(WAIT_POLL_MS, Math.max(0, untilMs - performance.now())));
    seen = await sidecarsOf(client, invocation);
  }
  const { found, total } = seen;
  if (json) {
    const all = toJson(
      ListSidecarsResponseSchema,
      { $typeName: "sallyport.control.v1.ListSidecarsResponse", sidecars: [...found], total },
      JSON_FORM,
    );
    terminal.out(JSON.stringify(all));
  } else {
    const { channels } = await asking((options) => client.listChannels({}, options));
    for (const channel of channels) terminal.out(channelText(channel));
    if (channels.length > 0) terminal.out("");
    for (const line of table(
      ["SIDECAR", "CHANNEL", "IN FORCE", "WANTED", "MODE", "FRESHNESS", "STATE"],
      found.map(sidecarRow),
    )) {
      terminal.out(line);
    }
    terminal.out(`${found.length} sidecars`);
  }
  // A control plane that has just started knows nobody: that is no sign that all is well.
  if (!seen.anyKnown) terminal.err("no sidecar has reported yet");
  return isWell(seen) ? EXIT_GOOD : EXIT_BAD;
}

interface Seen {
  /** Those that were asked for. */
  readonly found: readonly Sidecar[];
  readonly total: number;
  /** Whether there are any at all, of the channel or of all. */
  readonly anyKnown: boolean;
}

function isWell({ found, anyKnown }: Seen): boolean {
  return anyKnown && !found.some(({ lagging, failing }) => lagging || failing);
}

async function sidecarsOf(client: FleetClient, { values, switches }: Invocation): Promise<Seen> {
  const found: Sidecar[] = [];
  let total = 0;
  do {
    const answer = await asking((options) =>
      client.listSidecars(
        {
          channel: values.channel ?? "",
          revision: revisionOf(values.revision),
          lagging: switches.has("lagging"),
          failing: switches.has("failing"),
          limit: PAGE,
          after: found.at(-1)?.status?.sidecarId ?? "",
        },
        options,
      ),
    );
    total = answer.total;
    found.push(...answer.sidecars);
    if (answer.sidecars.length < PAGE) break;
  } while (found.length < total);
  if (found.length > 0) return { found, total, anyKnown: true };
  const any = await asking((options) => client.listSidecars({ channel: values.channel ?? "", limit: 1 }, options));
  return { found, total, anyKnown: any.total > 0 };
}

/** @throws {OperatingError} ERR_NOT_FOUND for a channel that the control plane does not have */
async function requireChannel(client: FleetClient, name: string | undefined): Promise<void> {
  if (name === undefined || name === DEFAULT_CHANNEL) return;
  const { channels } = await asking((options) => client.listChannels({}, options));
  const names = channels.map((channel) => channel.name);
  if (names.includes(name)) return;
  const meant = suggest(name, [DEFAULT_CHANNEL, ...names]);
  const hint = meant === undefined ? "" : `; did you mean ${meant}?`;
  throw new OperatingError("ERR_NOT_FOUND", `--channel: no channel ${JSON.stringify(name)}${hint}`);
}

function waitOf(text: string): number {
  const ms = parseDuration(text);
  if (ms !== undefined) return ms;
  throw usage(`fleet status: --wait: expected ${DURATION_EXPECTED}, got ${JSON.stringify(text)}`);
}

async function channels(client: FleetClient, invocation: Invocation, terminal: Terminal): Promise<number> {
  const name = invocation.positionals[1];
  if (name !== undefined) {
    const selector = invocation.values.selector;
    if (selector === undefined) throw usage("fleet channels NAME: expected --selector, as env=prod");
    const [labels] = selectorsOf(selector);
    const { channel } = await asking((options) =>
      client.setChannel({ channel: name, ...(labels === undefined ? {} : { selector: labels }) }, options),
    );
    show(invocation, terminal, ChannelSchema, channel!, channelText(channel!));
    return EXIT_GOOD;
  }
  const { channels: all } = await asking((options) => client.listChannels({}, options));
  for (const channel of all) show(invocation, terminal, ChannelSchema, channel, channelText(channel));
  return EXIT_GOOD;
}

async function publish(client: FleetClient, invocation: Invocation, terminal: Terminal): Promise<number> {
  const bundle = readBundleBytes(invocation.positionals[1]!);
  const channel = channelNamed(invocation);
  const answer = await asking((options) => client.publish({ channel, bundle }, options));
  for (const warning of answer.warnings) terminal.err(`warning: ${warning}`);
  show(
    invocation,
    terminal,
    PublishResponseSchema,
    answer,
    `published ${refText(answer.published)} to channel ${channel}`,
  );
  return EXIT_GOOD;
}

async function canary(client: FleetClient, invocation: Invocation, terminal: Terminal): Promise<number> {
  const { positionals, values } = invocation;
  const channel = channelNamed(invocation);
  const selectors = values.selector === undefined ? [] : selectorsOf(values.selector);
  const share = values.share === undefined ? undefined : shareOf(values.share);
  const path = positionals[1];
  if (path === undefined) {
    if (share === undefined && selectors.length === 0)
      throw usage("fleet canary: expected BUNDLE, or --share or --selector to widen");
    const { channels: all } = await asking((options) => client.listChannels({}, options));
    const before = all.find(({ name }) => name === channel)?.canary?.share ?? 0;
    const { channel: widened } = await asking((options) =>
      client.widenCanary({ channel, share: share ?? before, selectors }, options),
    );
    show(invocation, terminal, ChannelSchema, widened!, channelText(widened!));
    return EXIT_GOOD;
  }
  const bundle = readBundleBytes(path);
  const answer = await asking((options) =>
    client.startCanary({ channel, bundle, share: share ?? 0, selectors }, options),
  );
  for (const warning of answer.warnings) terminal.err(`warning: ${warning}`);
  show(invocation, terminal, StartCanaryResponseSchema, answer, channelText(answer.channel!));
  return EXIT_GOOD;
}

async function promote(client: FleetClient, invocation: Invocation, terminal: Terminal): Promise<number> {
  const { channel } = await asking((options) => client.promoteCanary({ channel: channelNamed(invocation) }, options));
  show(invocation, terminal, ChannelSchema, channel!, channelText(channel!));
  return EXIT_GOOD;
}

async function abort(client: FleetClient, invocation: Invocation, terminal: Terminal): Promise<number> {
  const answer = await asking((options) => client.abortCanary({ channel: channelNamed(invocation) }, options));
  show(invocation, terminal, AbortCanaryResponseSchema, answer, `${channelText(answer.channel!)}\n${answer.nextStep}`);
  return EXIT_GOOD;
}

async function watch(client: FleetClient, invocation: Invocation, terminal: Terminal): Promise<number> {
  const count = invocation.values.count === undefined ? Number.POSITIVE_INFINITY : Number(invocation.values.count);
  if (!(count >= 1))
    throw usage(`fleet watch: --count: expected a number from 1, got ${JSON.stringify(invocation.values.count)}`);
  const over = new AbortController();
  let shown = 0;
  try {
    for await (const picture of client.watchFleet({}, { signal: over.signal })) {
      if (invocation.json) terminal.out(JSON.stringify(toJson(WatchFleetResponseSchema, picture, JSON_FORM)));
      else {
        const time = picture.serverTime === undefined ? "" : timestampDate(picture.serverTime).toISOString();
        terminal.out(`${time}  ${picture.connected} connected to this process, store ${picture.store}`);
        const rows = picture.channels.map(summaryRow);
        for (const line of table(
          ["CHANNEL", "BUNDLE", "SIDECARS", "CURRENT", "LAGGING", "FAILING", "AHEAD", "CANARY"],
          rows,
        )) {
          terminal.out(line);
        }
      }
      if (++shown >= count) break;
    }
  } catch (error) {
    throw fleetError(error);
  } finally {
    over.abort();
  }
  return EXIT_GOOD;
}

/** `--key` is the client's own private key here: the key that is locked is `--lock-key`. */
async function lock(client: FleetClient, { values, json }: Invocation, terminal: Terminal): Promise<number> {
  const { scope, reason, ttlSeconds } = readLockFlags("fleet lock", { ...values, key: values["lock-key"] });
  const plain = (hex: string | undefined): string => (hex ?? "").toLowerCase().replaceAll(":", "");
  const asked = { ...scope, certificate: plain(scope.certificate), key: plain(scope.key), reason };
  const answer = await asking((options) => client.addFleetLock({ lock: asked, ttlSeconds }, options));
  const set = answer.lock!;
  terminal.out(json ? JSON.stringify(lockJson(set)) : `locked: ${lockText(set)}`);
  return EXIT_GOOD;
}

async function unlock(client: FleetClient, { positionals, json }: Invocation, terminal: Terminal): Promise<number> {
  const id = positionals[1]!;
  await asking((options) => client.removeFleetLock({ id }, options));
  terminal.out(json ? JSON.stringify({ id, unlocked: true }) : `unlocked: ${id}`);
  return EXIT_GOOD;
}

async function locks(client: FleetClient, { json }: Invocation, terminal: Terminal): Promise<number> {
  const { locks: found } = await asking((options) => client.listFleetLocks({}, options));
  if (json) terminal.out(JSON.stringify(found.map(lockJson)));
  else if (found.length === 0) terminal.out("no locks");
  else for (const one of found) terminal.out(lockText(one));
  return EXIT_GOOD;
}

/** The token is shown once, to whoever asked for it; the file holds its hash only. */
function token(name: string | undefined, { values, json }: Invocation, terminal: Terminal): number {
  const role = values.role ?? "sidecar";
  if (name === undefined || !/^[A-Za-z0-9._@-]{1,64}$/.test(name)) {
    throw usage("fleet token: expected a NAME of letters, digits, dots, dashes, underscores and @");
  }
  if (!["sidecar", "viewer", "operator"].includes(role)) {
    throw usage(`fleet token: --role: expected sidecar, viewer or operator, got ${JSON.stringify(role)}`);
  }
  const secret = randomBytes(TOKEN_BYTES).toString("base64url");
  const sha256 = createHash("sha256").update(secret).digest("hex");
  if (json) terminal.out(JSON.stringify({ name, role, token: secret, sha256 }));
  else {
    terminal.err("The token, for whoever is to have it; it is not shown again:");
    terminal.out(secret);
    terminal.err("Under `tokens:` in the control plane's file:");
    terminal.err(`  - { name: ${name}, sha256: ${sha256}, roles: [${role}] }`);
  }
  return EXIT_GOOD;
}

const JSON_FORM = { useProtoFieldName: true, alwaysEmitImplicit: true } as const;

function show<Desc extends DescMessage>(
  { json }: Invocation,
  terminal: Terminal,
  schema: Desc,
  message: MessageShape<Desc>,
  text: string,
): void {
  terminal.out(json ? JSON.stringify(toJson(schema, message, JSON_FORM)) : text);
}

function channelText(channel: Channel): string {
  const who = channel.name === DEFAULT_CHANNEL ? "everyone else" : selectorText(channel.selector);
  const trial =
    channel.canary === undefined ? "" : `, canary ${refText(channel.canary.candidate)} for ${shareText(channel)}`;
  return `channel ${channel.name} (${who}): ${refText(channel.stable)}${trial}`;
}

function sidecarRow({ status, channel, wanted, lagging, failing, canary, ahead }: Sidecar): readonly string[] {
  const states = [
    failing ? "failing" : lagging ? "lagging" : ahead ? "ahead" : wanted === undefined ? "nothing wanted" : "current",
    ...(canary ? ["canary"] : []),
    ...(lagging || failing
      ? (status?.refusals ?? []).slice(0, 1).map(({ code, message }) => `${code} ${message}`)
      : []),
  ];
  const inForce = status?.inForce === undefined ? status?.policyRevision || "nothing" : refText(status.inForce);
  return [
    status?.sidecarId ?? "",
    channel,
    inForce,
    refText(wanted),
    status?.mode ?? "",
    status?.freshness ?? "",
    states.join(", "),
  ];
}

function summaryRow({
  channel,
  sidecars,
  current,
  lagging,
  failing,
  ahead,
  inCanary,
}: ChannelSummary): readonly string[] {
  const trial =
    channel?.canary === undefined ? "" : `${refText(channel.canary.candidate)} for ${shareText(channel)}: ${inCanary}`;
  return [
    channel?.name ?? "",
    refText(channel?.stable),
    ...[sidecars, current, lagging, failing, ahead].map(String),
    trial,
  ];
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): readonly string[] {
  const widths = head.map((name, column) => Math.max(name.length, ...rows.map((row) => row[column]!.length)));
  return [head, ...rows].map((row) =>
    row
      .map((text, column) => text.padEnd(widths[column]!))
      .join("  ")
      .trimEnd(),
  );
}

function channelNamed({ values }: Invocation): string {
  return values.channel ?? DEFAULT_CHANNEL;
}

function revisionOf(text: string | undefined): bigint {
  if (text === undefined) return 0n;
  if (/^[1-9]\d{0,15}$/.test(text)) return BigInt(text);
  throw usage(`fleet: --revision: expected a whole number from 1, got ${JSON.stringify(text)}`);
}

function shareOf(text: string): number {
  const value = /^\d{1,3}(?:\.\d{1,4})?$/.test(text) ? Number(text) : Number.NaN;
  if (value >= 0 && value <= 100) return value;
  throw usage(`fleet: --share: expected 0..100, got ${JSON.stringify(text)}`);
}

function selectorsOf(text: string): { readonly labels: Record<string, string> }[] {
  if (text === "") return [];
  return text.split(";").map((part) => ({
    labels: Object.fromEntries(
      part.split(",").map((pair) => {
        const [, key, value] = /^\s*([A-Za-z0-9._/-]{1,63})=([ -~]{0,128}?)\s*$/.exec(pair) ?? [];
        if (key === undefined)
          throw usage(`fleet: --selector: expected labels as env=prod, got ${JSON.stringify(pair)}`);
        return [key, value ?? ""];
      }),
    ),
  }));
}

function readBundleBytes(path: string): Uint8Array {
  try {
    const { size } = statSync(path);
    if (size > BUNDLE_BYTES_MAX) {
      const text = `${path}: expected a bundle of at most ${BUNDLE_BYTES_MAX} bytes, got ${size}`;
      throw new OperatingError("ERR_BUNDLE_TOO_LARGE", text);
    }
    return new Uint8Array(readFileSync(path));
  } catch (cause) {
    if (cause instanceof OperatingError) throw cause;
    throw new OperatingError("ERR_BUNDLE_INVALID", `${path}: expected a bundle file that can be read`, { cause });
  }
}
