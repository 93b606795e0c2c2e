/** `sallyport lock`, `unlock` and `locks`: refuse and terminate everything of a principal, credential, address … */

import { timestampMs } from "@bufbuild/protobuf/wkt";
import type { Lock } from "../gen/sallyport/local/v1/local_pb.ts";
import { parseDuration } from "../server/config.ts";
import { type Command, EXIT_GOOD, type Flag, usage } from "./command.ts";
import { API_FLAGS, calling, localClient } from "./local-client.ts";

export const SCOPE_FLAGS: readonly Flag[] = [
  { name: "principal", value: "NAME", summary: "A principal: SPIFFE ID, `issuer|subject` or `api-key/NAME`." },
  { name: "credential", value: "ID", summary: "A credential as decisions name it, such as `token:0123456789abcdef`." },
  { name: "certificate", value: "SHA256|SERIAL", summary: "A certificate, in hex." },
  { name: "key", value: "SHA256", summary: "A certificate's public key (SPKI), in hex: holds over renewals." },
  { name: "fingerprint", value: "JA4|JA3", summary: "A TLS fingerprint." },
  { name: "address", value: "ADDRESS|CIDR", summary: "A source address or range." },
  { name: "destination", value: "HOST", summary: "A service." },
  { name: "peer-group", value: "NAME", summary: "A peer group of the policy." },
];

export const lockCommand: Command = {
  name: "lock",
  arguments: "",
  positionals: [0, 0],
  summary: "Refuse and terminate all that matches every part of the scope given, until it expires or is unlocked.",
  flags: [
    ...SCOPE_FLAGS,
    { name: "reason", value: "TEXT", summary: "Why; shown in decisions and logs. Needed." },
    { name: "as", value: "NAME", summary: "Who sets it; shown in lists and the audit log." },
    { name: "for", value: "DURATION", summary: "How long, such as 30m or 12h; without it until unlocked." },
    ...API_FLAGS,
  ],
  run: async (invocation, terminal) => {
    const { values, json } = invocation;
    const { scope, reason, ttlSeconds } = readLockFlags("lock", values);
    const client = localClient(invocation, terminal);
    const { lock } = await calling((options) =>
      client.addLock({ lock: { ...scope, reason }, ttlSeconds, as: values.as ?? "" }, options),
    );
    if (lock !== undefined) terminal.out(json ? JSON.stringify(lockJson(lock)) : `locked: ${lockText(lock)}`);
    return EXIT_GOOD;
  },
};

export const unlockCommand: Command = {
  name: "unlock",
  arguments: "LOCK_ID",
  positionals: [1, 1],
  summary: "Take a lock away. Locks of the policy are taken away in the policy.",
  flags: API_FLAGS,
  run: async (invocation, terminal) => {
    const id = invocation.positionals[0] as string;
    const client = localClient(invocation, terminal);
    await calling((options) => client.removeLock({ id }, options));
    terminal.out(invocation.json ? JSON.stringify({ id, unlocked: true }) : `unlocked: ${id}`);
    return EXIT_GOOD;
  },
};

export const locksCommand: Command = {
  name: "locks",
  arguments: "",
  positionals: [0, 0],
  summary: "List the locks in force.",
  flags: API_FLAGS,
  run: async (invocation, terminal) => {
    const client = localClient(invocation, terminal);
    const { locks } = await calling((options) => client.listLocks({}, options));
    if (invocation.json) terminal.out(JSON.stringify(locks.map(lockJson)));
    else if (locks.length === 0) terminal.out("no locks");
    else for (const lock of locks) terminal.out(lockText(lock));
    return EXIT_GOOD;
  },
};

/**
 * Reads what `lock` and `fleet lock` have in common.
 * @throws {OperatingError} ERR_USAGE
 */
export function readLockFlags(command: string, values: Readonly<Record<string, string | undefined>>) {
  const scope: Partial<Record<keyof typeof PARTS, string>> = {};
  for (const part of SCOPE_PARTS) if (values[PARTS[part]] !== undefined) scope[part] = values[PARTS[part]]!;
  if (Object.keys(scope).length === 0) {
    throw usage(`${command}: expected at least one of ${SCOPE_FLAGS.map(({ name }) => `--${name}`).join(", ")}`);
  }
  if (values.reason === undefined || values.reason.trim() === "") {
    throw usage(`${command}: expected --reason TEXT: whoever is locked out will ask`);
  }
  const duration = values.for === undefined ? 0 : parseDuration(values.for);
  if (duration === undefined || (values.for !== undefined && duration < 1_000)) {
    throw usage(
      `${command}: --for: expected a duration of at least 1s, such as 30m, got ${JSON.stringify(values.for)}`,
    );
  }
  return { scope, reason: values.reason, ttlSeconds: Math.ceil(duration / 1_000) };
}

/** The parts of a scope and the flags that give them. */
const PARTS = {
  principal: "principal",
  credential: "credential",
  certificate: "certificate",
  key: "key",
  fingerprint: "fingerprint",
  address: "address",
  destination: "destination",
  peerGroup: "peer-group",
} as const;
const SCOPE_PARTS = Object.keys(PARTS) as (keyof typeof PARTS)[];

/** What lists show of a lock, whichever API it comes from. */
export type ShownLock = Readonly<Record<keyof typeof PARTS | "id" | "reason" | "setBy", string>> &
  Pick<Lock, "setAt" | "expiresAt">;

export function lockJson(lock: ShownLock): Record<string, unknown> {
  const scope = Object.fromEntries(
    SCOPE_PARTS.flatMap((part) => (lock[part] === "" ? [] : [[PARTS[part].replace("-", "_"), lock[part]]])),
  );
  return {
    id: lock.id,
    scope,
    reason: lock.reason,
    set_by: lock.setBy,
    set_at: isoTime(lock.setAt),
    expires_at: lock.expiresAt === undefined ? null : isoTime(lock.expiresAt),
  };
}

export function lockText(lock: ShownLock): string {
  const scope = SCOPE_PARTS.flatMap((part) => (lock[part] === "" ? [] : [`${PARTS[part]}=${lock[part]}`])).join(" ");
  const until = lock.expiresAt === undefined ? "until unlocked" : `until ${isoTime(lock.expiresAt)}`;
  return `${lock.id}  ${scope}  ${until}  by ${lock.setBy}: ${lock.reason}`;
}

function isoTime(timestamp: Lock["setAt"]): string | null {
  return timestamp === undefined ? null : new Date(timestampMs(timestamp)).toISOString();
}
