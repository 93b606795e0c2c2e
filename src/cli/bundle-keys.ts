/** `sallyport bundle keygen` and `root`: who signs, and how the next signers follow. */

import { stat } from "node:fs/promises";
import { readJws, type SigningKey, signersOf } from "../bundle/jws.ts";
import { makeSigningKey, readPublicKey, readSigningKey, writePublicKey, writeSigningKey } from "../bundle/keys.ts";
import { claimedRoot, type RootChain, readRootChain, signRoot, unsignedRoot, writeRootChain } from "../bundle/sign.ts";
import { writeTrustRoot } from "../bundle/trust.ts";
import { walkRoots } from "../bundle/verify.ts";
import type { TrustedKey, TrustRoot } from "../model/bundle.ts";
import { OperatingError } from "../model/errors.ts";
import { type Command, EXIT_GOOD, type Flag, type Invocation, type Terminal, usage } from "./command.ts";
import { readInput, writeOutput, writePrivate } from "./named-files.ts";
import { KEY_FILE_BYTES_MAX } from "./trust.ts";

const ROOTS_FILE_BYTES_MAX = 64 * 1024 * 1024;

export const SIGN_WITH: Flag = {
  name: "sign-with",
  value: "KEY",
  many: true,
  summary: "Private key file to sign with; a pipe will do, so that the key need not lie on disk.",
};

export const keygenCommand: Command = {
  name: "bundle keygen",
  arguments: "",
  positionals: [0, 0],
  summary: "Make a signing key: FILE is private (mode 0600, never overwritten), FILE.pub is for everyone.",
  flags: [
    { name: "out", value: "FILE", summary: "Where the private key goes." },
    { name: "owner", value: "NAME", summary: "Whose it is, for people who look at signatures." },
  ],
  run: async ({ values, json }, { out }) => {
    const file = needed(values.out, "bundle keygen", "--out FILE");
    const key = makeSigningKey(values.owner ?? "");
    await writePrivate(file, writeSigningKey(key));
    await writeOutput(`${file}.pub`, writePublicKey(key));
    out(
      json
        ? JSON.stringify({ kid: key.kid, owner: key.owner, private: file, public: `${file}.pub` })
        : `wrote ${file} (private: keep it) and ${file}.pub (public): key ${key.kid}`,
    );
    return EXIT_GOOD;
  },
};

export const rootCommand: Command = {
  name: "bundle root",
  arguments: "",
  positionals: [0, 0],
  summary:
    "Say whose signatures count. Without --from: makes the key file that verifiers start with. With --from: names the next keys, signed by enough of the old and of the new; or adds a signature to that.",
  flags: [
    { name: "out", value: "FILE", summary: "Where the key file goes; with --from, the roots file for `bundle build`." },
    { name: "key", value: "PUBLIC", many: true, summary: "Public key file of a signer." },
    { name: "threshold", value: "N", summary: "How many different keys must sign. Default 1, or as before." },
    { name: "from", value: "ROOTS", summary: "The key file or roots file to go on from." },
    SIGN_WITH,
    { name: "keys-out", value: "FILE", summary: "Also write the newest root as a key file, for new verifiers." },
    {
      name: "restart-revisions",
      value: undefined,
      summary: "Revisions begin anew under this root: when a stolen key has signed one out of all reach.",
    },
  ],
  run: async (invocation, terminal) => {
    const { out } = terminal;
    const { values, lists, switches, json } = invocation;
    const file = needed(values.out, "bundle root", "--out FILE");
    const keys = await Promise.all((lists.key ?? []).map(publicKeyAt));
    const signers = await signingKeys(invocation, terminal);
    const threshold = thresholdOf(values.threshold);
    if (values.from === undefined) {
      if (keys.length === 0) throw usage("bundle root: expected --key PUBLIC at least once, or --from ROOTS");
      if (signers.length > 0 || switches.has("restart-revisions")) {
        throw usage("bundle root: the first root is handed out, not signed; --sign-with goes with --from");
      }
      const root = checked({ version: 1, threshold: threshold ?? 1, keys });
      await writeOutput(file, writeTrustRoot(root));
      if (values["keys-out"] !== undefined) await writeOutput(values["keys-out"], writeTrustRoot(root));
      out(json ? JSON.stringify({ file, ...root, complete: true }) : `wrote ${file}: ${rootText(root)}`);
      return EXIT_GOOD;
    }
    const chain = await rootChainAt(values.from);
    const changes = keys.length > 0 || threshold !== undefined || switches.has("restart-revisions");
    if (!changes && signers.length === 0) {
      throw usage("bundle root: --from expects --key, --threshold or --sign-with: there is nothing to do");
    }
    const grown = changes
      ? await nextRoot(chain, values.from, keys, threshold, switches.has("restart-revisions"))
      : chain;
    const last = grown.roots.at(-1);
    if (last === undefined)
      throw usage(`bundle root: ${values.from} has no root to sign; name the next keys with --key`);
    let signed = last;
    for (const signer of signers) signed = await signRoot(signed, signer, file);
    const result: RootChain = { first: grown.first, roots: [...grown.roots.slice(0, -1), signed] };
    const root = claimedRoot(signed, file);
    const missing = await missingSignatures(result, file);
    if (missing.length > 0 && values["keys-out"] !== undefined) {
      throw new OperatingError(
        "ERR_BUNDLE_SIGNATURE",
        `--keys-out: expected a root that is signed, got one that lacks ${missing.join(" and ")}`,
      );
    }
    await writeOutput(file, writeRootChain(result));
    if (values["keys-out"] !== undefined) await writeOutput(values["keys-out"], writeTrustRoot(root));
    if (json) out(JSON.stringify({ file, ...root, complete: missing.length === 0, missing }));
    else {
      out(`wrote ${file}: ${rootText(root)}`);
      if (missing.length > 0)
        out(`it still lacks ${missing.join(" and ")}: bundle root --from ${file} --sign-with KEY`);
    }
    return EXIT_GOOD;
  },
};

/** Private keys of `--sign-with`, in order. */
export async function signingKeys(
  { lists }: Invocation,
  terminal: Terminal,
  flag = SIGN_WITH.name,
): Promise<readonly SigningKey[]> {
  const keys: SigningKey[] = [];
  for (const path of lists[flag] ?? []) {
    await warnOfOpenKey(path, terminal);
    keys.push(readSigningKey((await readInput(path, KEY_FILE_BYTES_MAX)).toString("utf8"), path));
  }
  return keys;
}

/** Says it of a file, not of a pipe, which lies nowhere. */
async function warnOfOpenKey(path: string, { err }: Terminal): Promise<void> {
  const found = await stat(path).catch(() => undefined); // reading it will say what is wrong
  if (found === undefined || !found.isFile() || (found.mode & 0o077) === 0) return;
  const mode = (found.mode & 0o777).toString(8).padStart(4, "0");
  err(`warning: private key ${path} is open to others than its owner (mode ${mode}): chmod 600 ${path}`);
}

/** @throws {OperatingError} ERR_KEY_INVALID, ERR_DATA_UNREADABLE */
export async function rootChainAt(path: string): Promise<RootChain> {
  return readRootChain((await readInput(path, ROOTS_FILE_BYTES_MAX)).toString("utf8"), path);
}

export function needed(value: string | undefined, command: string, what: string): string {
  if (value === undefined || value === "") throw usage(`${command}: expected ${what}`);
  return value;
}

async function publicKeyAt(path: string): Promise<TrustedKey> {
  return readPublicKey((await readInput(path, KEY_FILE_BYTES_MAX)).toString("utf8"), path);
}

/** A chain with one root more, which nobody has signed yet. What comes before it must be whole. */
async function nextRoot(
  chain: RootChain,
  file: string,
  keys: readonly TrustedKey[],
  threshold: number | undefined,
  restart: boolean,
): Promise<RootChain> {
  const { root } = await walkRoots(chain.roots, chain.first, file);
  const next = checked({
    version: root.version + 1,
    threshold: threshold ?? root.threshold,
    keys: keys.length > 0 ? keys : root.keys,
    ...(restart ? { restartsRevisions: true } : {}),
  });
  return { first: chain.first, roots: [...chain.roots, unsignedRoot(next)] };
}

/** What the last root of a chain still lacks, in words; empty when it is whole. */
async function missingSignatures({ first, roots }: RootChain, file: string): Promise<readonly string[]> {
  const { root: before } = await walkRoots(roots.slice(0, -1), first, file);
  const text = roots.at(-1)!;
  const root = claimedRoot(text, file);
  const jws = readJws(text, file);
  const missing: string[] = [];
  for (const [kind, { keys, threshold }] of [
    ["old", before],
    ["new", root],
  ] as const) {
    const { kids } = await signersOf(jws, "sallyport-root+jws", keys, file);
    if (kids.size < threshold) missing.push(`${threshold - kids.size} signature(s) of the ${kind} keys`);
  }
  return missing;
}

/** @throws {OperatingError} ERR_KEY_INVALID for a root that no verifier would take */
function checked(root: TrustRoot): TrustRoot {
  if (new Set(root.keys.map(({ kid }) => kid)).size < root.keys.length) {
    throw new OperatingError("ERR_KEY_INVALID", "--key: expected every key once, got one twice");
  }
  if (root.threshold > root.keys.length) {
    throw new OperatingError(
      "ERR_KEY_INVALID",
      `--threshold: expected at most the ${root.keys.length} keys, got ${root.threshold}`,
    );
  }
  return root;
}

function thresholdOf(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const value = /^\d{1,3}$/.test(text) ? Number(text) : 0;
  if (value >= 1 && value <= 100) return value;
  throw usage(`bundle root: --threshold: expected 1..100, got ${JSON.stringify(text)}`);
}

function rootText({ version, threshold, keys }: TrustRoot): string {
  return `root ${version}, ${threshold} of ${keys.length} keys: ${keys.map(keyText).join(", ")}`;
}

export function keyText({ kid, owner }: TrustedKey): string {
  return owner === "" ? kid : `${owner} (${kid})`;
}
