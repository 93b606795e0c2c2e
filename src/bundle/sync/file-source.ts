/** Policy from disk: a YAML file with what it names, a bundle file, or a folder; watched for changes. */

import { type FSWatcher, watch } from "node:fs";
import { lstat, readdir, readlink, stat } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { OperatingError } from "../../model/errors.ts";
import type { PolicyOrigin } from "../load.ts";
import { readBundleFile } from "./bundle-bytes.ts";
import type { PolicySource, SourceListener } from "./source.ts";

export interface FileSourceOptions {
  /** Largest bundle read. */
  readonly bytesMax: number;
  /** How often files are looked at even when the system reports nothing, milliseconds. Default 2,000. */
  readonly pollMs?: number;
  /** How long a burst of changes may go on before it is read, milliseconds. Default 100. */
  readonly settleMs?: number;
}

const POLL_MS = 2_000;
const SETTLE_MS = 100;
/** What was refused is offered again after this long: what spoke against it may have been this machine's clock. */
const REFUSED_AGAIN_MS = 60_000;
/** Files of a folder that are looked at; the rest is left out of the look. */
const ENTRIES_MAX = 10_000;
/** What a folder may hold of policy: `policy.yaml`, `policy.yml`, bundles. */
const POLICY_ENTRY = /^policy\.ya?ml$|\.bundle$/;

/**
 * Watches a policy on disk.
 *
 * The system's own reports make changes count at once. Looking at the files every two seconds finds what those miss:
 * folders on network file systems, and Kubernetes' ConfigMaps, whose files are links that lead elsewhere after a swap.
 */
export class FileSource implements PolicySource {
  readonly kind = "file";
  readonly label: string;
  private readonly path: string;
  private readonly options: FileSourceOptions;
  private readonly folders = new Map<string, FSWatcher>();
  private listener: SourceListener | undefined;
  private poll: NodeJS.Timeout | undefined;
  private settling: NodeJS.Timeout | undefined;
  private running: Promise<void> = Promise.resolve();
  /** Files read last, absolute: a change of any of them counts. */
  private files: readonly string[];
  private stamp: string | undefined;
  /** Whether what was offered last was taken. */
  private good = false;
  /** Monotonic time from when on what was refused is offered again. */
  private againAtMs = Number.POSITIVE_INFINITY;
  private closed = false;

  constructor(path: string, options: FileSourceOptions) {
    this.path = resolve(path);
    this.label = path;
    this.options = options;
    this.files = [this.path];
  }

  start(listener: SourceListener): void {
    this.listener = listener;
    this.watchFolders(new Set([dirname(this.path)]));
    this.poll = setInterval(() => void this.check(), this.options.pollMs ?? POLL_MS);
    this.poll.unref();
    void this.check();
  }

  /** Looks at the files now, and offers them again if they seem to have changed; one look at a time. */
  check(): Promise<void> {
    this.running = this.running.then(() => this.look());
    return this.running;
  }

  close(): void {
    this.closed = true;
    clearInterval(this.poll);
    clearTimeout(this.settling);
    for (const folder of this.folders.values()) folder.close();
    this.folders.clear();
  }

  private async look(): Promise<void> {
    const { listener } = this;
    if (this.closed || listener === undefined) return;
    const entries = await entriesOf(this.path);
    const watched = [...new Set([...this.files, ...(entries ?? [])])];
    const before = await stampOf(watched);
    if (before === this.stamp && performance.now() < this.againAtMs) {
      if (this.good) listener.confirmed();
      return;
    }
    let origin: PolicyOrigin;
    try {
      origin = await this.origin(entries !== undefined);
    } catch (error) {
      // Keeps the last good policy: a file that is too large or not readable is told, and looked at when it changes.
      if (!(error instanceof OperatingError)) throw error;
      this.stamp = before;
      this.good = false;
      if (!this.closed) listener.failed(error);
      return;
    }
    const result = await listener.offer(origin, { from: this.label });
    if (this.closed) return;
    const files = result.files.length === 0 ? [this.path] : result.files;
    // A file that was written while it was read has another stamp the next time, and is then read again.
    this.stamp = sameFiles(files, this.files) ? before : undefined;
    this.good = result.kind !== "refused";
    this.againAtMs = this.good ? Number.POSITIVE_INFINITY : performance.now() + REFUSED_AGAIN_MS;
    this.files = files;
    await this.watchAround(files, entries === undefined ? [] : [this.path]);
  }

  /** A bundle is read here, so that what is kept as the last good one is what was verified, byte for byte. */
  private async origin(isFolder: boolean): Promise<PolicyOrigin> {
    const bytes = isFolder ? undefined : await readBundleFile(this.path, this.label, this.options.bytesMax);
    if (bytes === undefined) return { kind: "path", path: this.label };
    return { kind: "bytes", label: this.label, bytes };
  }

  /** Folders are watched, not files: editors and ConfigMaps put new files in the place of old ones. */
  private async watchAround(files: readonly string[], folders: readonly string[] = []): Promise<void> {
    const around = await Promise.all(files.map(foldersOf));
    if (!this.closed) this.watchFolders(new Set([...around.flat(), ...folders]));
  }

  private watchFolders(wanted: ReadonlySet<string>): void {
    for (const [folder, watcher] of this.folders) {
      if (wanted.has(folder)) continue;
      watcher.close();
      this.folders.delete(folder);
    }
    for (const folder of wanted) {
      if (this.folders.has(folder)) continue;
      try {
        const watcher = watch(folder, { persistent: false }, () => this.settle());
        watcher.on("error", () => this.drop(folder));
        this.folders.set(folder, watcher);
      } catch {
        // Keeps the last good policy: a folder that cannot be watched is still looked at every two seconds.
      }
    }
  }

  private drop(folder: string): void {
    this.folders.get(folder)?.close();
    this.folders.delete(folder);
  }

  private settle(): void {
    if (this.closed || this.settling !== undefined) return;
    this.settling = setTimeout(() => {
      this.settling = undefined;
      void this.check();
    }, this.options.settleMs ?? SETTLE_MS);
    this.settling.unref();
  }
}

/** Links that are followed from one file. */
const LINKS_MAX = 8;

/** Where a file would change: its own folder, and those of the links that it stands for. */
async function foldersOf(file: string): Promise<readonly string[]> {
  const folders = [dirname(file)];
  let at = file;
  try {
    for (let links = 0; links < LINKS_MAX && (await lstat(at)).isSymbolicLink(); links++) {
      at = resolve(dirname(at), await readlink(at));
      const folder = dirname(at);
      // A folder that is a link itself, as `..data` is, changes where that link is.
      folders.push((await lstat(folder)).isSymbolicLink() ? dirname(folder) : folder);
    }
  } catch {
    // Keeps the last good policy: reading it will say what is wrong, and it is looked at every two seconds besides.
  }
  return folders;
}

/** What may be policy in a folder, absolute and in order; `undefined` when the path is none. */
async function entriesOf(path: string): Promise<readonly string[] | undefined> {
  try {
    if (!(await stat(path)).isDirectory()) return undefined;
    const names = (await readdir(path)).filter((name) => POLICY_ENTRY.test(name));
    return names
      .toSorted()
      .slice(0, ENTRIES_MAX)
      .map((name) => join(path, name));
  } catch {
    // Keeps the last good policy: loading it will say what is wrong.
    return undefined;
  }
}

/** Changes whenever a file's content was written or another file came in its place; links are followed. */
async function stampOf(files: readonly string[]): Promise<string> {
  const stamps = files.map(async (file) => {
    try {
      const { dev, ino, size, mtimeNs, ctimeNs } = await stat(file, { bigint: true });
      return [file, dev, ino, size, mtimeNs, ctimeNs].join(" ");
    } catch {
      // Keeps the last good policy: reading it will say what is wrong.
      return `${file} none`;
    }
  });
  return (await Promise.all(stamps)).join("\n");
}

function sameFiles(left: readonly string[], right: readonly string[]): boolean {
  return left.length === right.length && left.every((file, index) => file === right[index]);
}
