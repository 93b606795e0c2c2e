/** `sallyport bundle build`, `sign`, `verify` and `inspect`: policy as one signed file. */

import { createHash } from "node:crypto";
import { buildBundle } from "../bundle/build.ts";
import { BUNDLE_BYTES_MAX, readBundle, writeBundle } from "../bundle/bundle-file.ts";
import { joinFiles } from "../bundle/chunks.ts";
import { kidOf, readJws } from "../bundle/jws.ts";
import { formatProblem } from "../bundle/problem.ts";
import { DURATION_EXPECTED, MOMENT_EXPECTED, parseDuration, parseMoment } from "../bundle/scalars.ts";
import { claimedRoot, signBundle } from "../bundle/sign.ts";
import { readTrust } from "../bundle/trust.ts";
import { claimedManifest, factsOf, verifyBundle, walkRoots } from "../bundle/verify.ts";
import type { Bundle } from "../gen/sallyport/bundle/v1/bundle_pb.ts";
import type { BundleFacts, Trust, TrustedKey, TrustRoot } from "../model/bundle.ts";
import { OperatingError } from "../model/errors.ts";
import { keyText, needed, rootChainAt, SIGN_WITH, signingKeys } from "./bundle-keys.ts";
import { contentProblems, gatherPolicy } from "./bundle-policy.ts";
import { type Command, EXIT_BAD, EXIT_GOOD, type Flag, type Invocation, type Terminal, usage } from "./command.ts";
import { readInput, writeOutput } from "./named-files.ts";
import { KEY_FILE_BYTES_MAX, trustFrom } from "./trust.ts";

const KEYS: Flag = {
  name: "keys",
  value: "KEYFILE",
  summary: "Whose signatures count (see `sallyport bundle root`). Default $SALLYPORT_BUNDLE_KEYS.",
};

export const buildCommand: Command = {
  name: "bundle build",
  arguments: "[POLICY]",
  positionals: [0, 1],
  summary:
    "Check a policy and put it and every file that it names into a bundle, or with --from issue an earlier bundle's contents again. The same inputs give the same bytes.",
  flags: [
    { name: "name", value: "NAME", summary: "Name of the bundle: revisions of one name follow each other." },
    { name: "revision", value: "N|next", summary: "Higher than every one before; `next` is one more than --after's." },
    { name: "expires", value: "DURATION|TIME", summary: "From when on nobody takes it any more, such as 30d." },
    { name: "out", value: "FILE", summary: "Where the bundle goes. Default NAME.bundle in this folder." },
    { name: "after", value: "OLD.bundle", summary: "The bundle before this one, for `--revision next`." },
    { name: "from", value: "OLD.bundle", summary: "Take contents and name from this bundle: the way back to it." },
    { name: "issued", value: "TIME", summary: "Issue time. Default $SOURCE_DATE_EPOCH, else now." },
    { name: "roots", value: "FILE", summary: "Key file or roots file, once keys have changed (see `bundle root`)." },
    SIGN_WITH,
  ],
  run: async (invocation, terminal) => {
    const { positionals, values, json } = invocation;
    const { out, err } = terminal;
    const [policyPath] = positionals;
    if ((policyPath === undefined) === (values.from === undefined)) {
      throw usage("bundle build: expected either POLICY or --from OLD.bundle");
    }
    const old = values.from === undefined ? undefined : await bundleAt(values.from);
    const oldManifest = old === undefined ? undefined : claimedManifest(old, values.from!).manifest;
    const name = values.name ?? needed(oldManifest?.name, "bundle build", "--name NAME");
    const file = values.out ?? `${name}.bundle`;
    const revision = await revisionOf(values, name);
    const issuedAtMs = issueTime(values.issued, terminal);
    const expiresAtMs = expiryTime(needed(values.expires, "bundle build", "--expires DURATION|TIME"), issuedAtMs);
    const chain = values.roots === undefined ? undefined : await rootChainAt(values.roots);
    const root = chain === undefined ? undefined : (await walkRoots(chain.roots, chain.first, values.roots!)).root;
    const keys = await signingKeys(invocation, terminal);

    const gathered =
      old === undefined
        ? await gatherPolicy(policyPath!)
        : {
            policy: oldManifest!.policy,
            files: joinFiles(oldManifest!, old.chunks, BUNDLE_BYTES_MAX, values.from!),
            problems: [],
          };
    const problems = gathered.problems.length > 0 ? gathered.problems : contentProblems(gathered, policyPath);
    if (problems.length > 0) {
      if (json) out(JSON.stringify({ ok: false, problems }));
      else for (const problem of problems) err(formatProblem(problem));
      return EXIT_BAD;
    }
    let bundle = buildBundle({
      name,
      revision,
      issuedAtMs,
      expiresAtMs,
      policy: gathered.policy,
      files: gathered.files,
      roots: chain?.roots ?? [],
      rootVersion: root?.version ?? 1,
    });
    for (const key of keys) {
      if (root !== undefined) warnOfForeignKey(key, root, values.roots!, terminal);
      bundle = await signBundle(bundle, key);
    }
    return written(file, bundle, invocation, terminal);
  },
};

export const signCommand: Command = {
  name: "bundle sign",
  arguments: "BUNDLE",
  positionals: [1, 1],
  summary: "Add a signature to a bundle; several people sign one after another.",
  flags: [
    { name: "key", value: "KEY", many: true, summary: "Private key file to sign with; a pipe will do." },
    { name: "out", value: "FILE", summary: "Where the signed bundle goes; over the given one without it." },
  ],
  run: async (invocation, terminal) => {
    const path = invocation.positionals[0]!;
    const keys = await signingKeys(invocation, terminal, "key");
    if (keys.length === 0) throw usage("bundle sign: expected --key KEY");
    let bundle = await bundleAt(path);
    const last = bundle.roots.at(-1);
    for (const key of keys) {
      if (last !== undefined) warnOfForeignKey(key, claimedRoot(last, path), path, terminal);
      bundle = await signBundle(bundle, key, path);
    }
    return written(invocation.values.out ?? path, bundle, invocation, terminal);
  },
};

export const verifyCommand: Command = {
  name: "bundle verify",
  arguments: "BUNDLE",
  positionals: [1, 1],
  summary: "Verify a bundle as a sidecar would: signatures, times and contents; with --trust that it is no older one.",
  flags: [
    KEYS,
    { name: "name", value: "NAME", summary: "The only name of a bundle that is taken." },
    {
      name: "trust",
      value: "STATE",
      summary: "What a verifier remembers, as a sidecar's state directory holds it; read, never changed.",
    },
  ],
  run: async (invocation, terminal) => {
    const { positionals, values, json } = invocation;
    const path = positionals[0]!;
    const trust =
      values.trust === undefined
        ? await trustFrom(invocation, terminal, KEYS.name)
        : readTrust((await readInput(values.trust, KEY_FILE_BYTES_MAX)).toString("utf8"), values.trust);
    if (trust === undefined) throw usage("bundle verify: expected --keys KEYFILE or --trust STATE");
    const verified = await verifyBundle(await bundleAt(path), trust, Date.now(), { label: path, name: values.name });
    const { facts, files, signers, warnings } = verified;
    for (const warning of warnings) terminal.err(`warning: ${warning}`);
    const { keys } = verified.trust.root;
    const by = keys.filter(({ kid }) => signers.includes(kid));
    if (json) terminal.out(JSON.stringify({ ok: true, ...factsJson(facts), signed_by: by.map(keyJson), warnings }));
    else {
      terminal.out(`${path}: good. ${factsText(facts)}, ${files.size} files, signed by ${by.map(keyText).join(", ")}`);
    }
    return EXIT_GOOD;
  },
};

export const inspectCommand: Command = {
  name: "bundle inspect",
  arguments: "BUNDLE",
  positionals: [1, 1],
  summary: "Show what a bundle holds, verified or not, and say which.",
  flags: [KEYS, { name: "file", value: "NAME", summary: "Print this file of the bundle instead, byte for byte." }],
  run: async (invocation, terminal) => {
    const { positionals, values, json } = invocation;
    const { out, err } = terminal;
    const path = positionals[0]!;
    const bundle = await bundleAt(path);
    const claimed = claimedManifest(bundle, path);
    const trust = await trustFrom(invocation, terminal, KEYS.name);
    const outcome = await verification(bundle, trust, path);
    const verified = outcome.kind === "verified";
    if (outcome.kind === "not verified") err(`${path}: NOT VERIFIED: ${outcome.why}`);
    const status = trust !== undefined && !verified ? EXIT_BAD : EXIT_GOOD;
    const files = joinFiles(claimed.manifest, bundle.chunks, BUNDLE_BYTES_MAX, path);
    if (values.file !== undefined) {
      const content = files.get(values.file);
      if (content === undefined) {
        const names = [...files.keys()].join(", ");
        throw new OperatingError("ERR_NOT_FOUND", `${path}: expected one of ${names}, got ${values.file}`);
      }
      process.stdout.write(content);
      return status;
    }
    const facts = factsOf(claimed);
    const contents = [...files].map(([name, content]) => ({
      name,
      bytes: content.byteLength,
      sha256: createHash("sha256").update(content).digest("hex"),
    }));
    const roots = bundle.roots.map((text, index) => claimedRoot(text, `${path}: roots[${index}]`));
    const known = knownKeys(trust, roots);
    const signatures = readJws(bundle.manifest, path).signatures.map((signature) => {
      const kid = kidOf(signature);
      return { kid, owner: known.find((key) => key.kid === kid)?.owner };
    });
    if (json) {
      const { rootVersion, policy } = claimed.manifest;
      out(
        JSON.stringify({
          verified,
          fault: outcome.kind === "verified" ? null : outcome.why,
          ...factsJson(facts),
          root: rootVersion,
          policy,
          files: contents,
          chunks: bundle.chunks.length,
          signatures: signatures.map(({ kid, owner }) => ({
            kid: kid ?? null,
            owner: owner ?? null,
            counts: outcome.kind === "verified" && kid !== undefined && outcome.signers.includes(kid),
          })),
          roots: roots.map(({ version, threshold, keys }) => ({ version, threshold, keys: keys.map(keyJson) })),
        }),
      );
      return status;
    }
    out(`${path}: ${verified ? "verified" : "NOT VERIFIED"}. ${factsText(facts)}`);
    out(`digest ${facts.digest}, root ${claimed.manifest.rootVersion}, policy ${claimed.manifest.policy}`);
    out(`${contents.length} files in ${bundle.chunks.length} chunks`);
    for (const { name, bytes, sha256 } of contents) out(`  ${sha256}  ${String(bytes).padStart(10)}  ${name}`);
    out(`${signatures.length} signatures`);
    for (const { kid, owner } of signatures) out(`  ${kid ?? "unreadable"}  ${signatureText(kid, owner, outcome)}`);
    for (const { version, threshold, keys } of roots) {
      out(`root ${version}: ${threshold} of ${keys.map(keyText).join(", ")}`);
    }
    return status;
  },
};

type Outcome =
  | { readonly kind: "verified"; readonly signers: readonly string[] }
  | { readonly kind: "not verified"; readonly why: string };

async function verification(bundle: Bundle, trust: Trust | undefined, path: string): Promise<Outcome> {
  if (trust === undefined) {
    return {
      kind: "not verified",
      why: "no keys were given, so anyone could have written what it says; give --keys KEYFILE",
    };
  }
  try {
    const { signers } = await verifyBundle(bundle, trust, Date.now(), { label: path });
    return { kind: "verified", signers };
  } catch (error) {
    // Fails closed: shown all the same, as what it is.
    if (error instanceof OperatingError) return { kind: "not verified", why: `${error.message} (${error.code})` };
    throw error;
  }
}

/** What is known of a signature by the key that it names. */
function signatureText(kid: string | undefined, owner: string | undefined, outcome: Outcome): string {
  if (outcome.kind === "not verified") return owner === undefined ? "says a key that nobody knows" : `says ${owner}`;
  return kid !== undefined && outcome.signers.includes(kid) ? (owner ?? "") : "does not count";
}

async function bundleAt(path: string): Promise<Bundle> {
  return readBundle(await readInput(path, BUNDLE_BYTES_MAX), path);
}

async function written(
  file: string,
  bundle: Bundle,
  { json }: Pick<Invocation, "json">,
  { out }: Terminal,
): Promise<number> {
  const bytes = writeBundle(bundle);
  await writeOutput(file, bytes);
  const facts = factsOf(claimedManifest(bundle, file));
  const signed = readJws(bundle.manifest, file).signatures.map((signature) => kidOf(signature) ?? null);
  out(
    json
      ? JSON.stringify({ ok: true, file, bytes: bytes.byteLength, ...factsJson(facts), signatures: signed })
      : `wrote ${file}: ${factsText(facts)}, ${bytes.byteLength} bytes, ${
          signed.length === 0 ? "not signed" : `signed by ${signed.length} key(s)`
        }`,
  );
  return EXIT_GOOD;
}

function warnOfForeignKey(key: TrustedKey, root: TrustRoot, where: string, { err }: Terminal): void {
  if (root.keys.some(({ kid }) => kid === key.kid)) return;
  err(`warning: key ${keyText(key)} is not one of root ${root.version} in ${where}: its signature will not count`);
}

async function revisionOf(values: Invocation["values"], name: string): Promise<number> {
  const text = needed(values.revision, "bundle build", "--revision N|next");
  if (text === "next") {
    const path = needed(values.after, "bundle build", "--after OLD.bundle with --revision next");
    const before = factsOf(claimedManifest(await bundleAt(path), path));
    if (before.name === name) return before.revision + 1;
    throw usage(`bundle build: --after: expected a bundle ${name}, got bundle ${before.name}`);
  }
  const revision = /^\d{1,16}$/.test(text) ? Number(text) : 0;
  if (revision >= 1 && Number.isSafeInteger(revision)) return revision;
  throw usage(`bundle build: --revision: expected 1..${Number.MAX_SAFE_INTEGER} or next, got ${JSON.stringify(text)}`);
}

function issueTime(text: string | undefined, { environment }: Terminal): number {
  if (text !== undefined) {
    const ms = parseMoment(text);
    if (ms === undefined)
      throw usage(`bundle build: --issued: expected ${MOMENT_EXPECTED}, got ${JSON.stringify(text)}`);
    return ms;
  }
  const epoch = environment.SOURCE_DATE_EPOCH;
  if (epoch === undefined) return Math.floor(Date.now() / 1_000) * 1_000;
  if (!/^\d{1,11}$/.test(epoch)) {
    throw usage(`bundle build: SOURCE_DATE_EPOCH: expected seconds since 1970, got ${JSON.stringify(epoch)}`);
  }
  return Number(epoch) * 1_000;
}

function expiryTime(text: string, issuedAtMs: number): number {
  const duration = parseDuration(text);
  const ms = duration === undefined ? parseMoment(text) : issuedAtMs + duration;
  if (ms !== undefined && ms > issuedAtMs) return ms;
  throw usage(
    `bundle build: --expires: expected ${DURATION_EXPECTED}, or ${MOMENT_EXPECTED} after the issue time, got ${JSON.stringify(text)}`,
  );
}

function knownKeys(trust: Trust | undefined, roots: readonly TrustRoot[]): readonly TrustedKey[] {
  return [...(trust?.root.keys ?? []), ...roots.flatMap(({ keys }) => keys)];
}

function factsText({ name, revision, issuedAtMs, expiresAtMs }: BundleFacts): string {
  return `${name} revision ${revision}, issued ${isoTime(issuedAtMs)}, expires ${isoTime(expiresAtMs)}`;
}

function factsJson({ name, revision, digest, issuedAtMs, expiresAtMs }: BundleFacts): Record<string, unknown> {
  return { name, revision, digest, issued_at: isoTime(issuedAtMs), expires_at: isoTime(expiresAtMs) };
}

function keyJson({ kid, owner }: TrustedKey): Record<string, string> {
  return { kid, owner };
}

function isoTime(ms: number): string {
  return new Date(ms).toISOString().replace(".000Z", "Z");
}
