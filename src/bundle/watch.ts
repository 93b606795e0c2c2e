/** Watches a policy and the files that it names, and tells when their content has changed. */

import { type FSWatcher, watch } from "node:fs";
import { stat } from "node:fs/promises";
import { dirname } from "node:path";
import { type Loaded, type LoadResult, loadPolicy, type NotLoaded } from "./load.ts";

/** What a watcher tells, once for each content. */
export interface PolicyListener {
  /** A new policy that can be put in force. */
  readonly onPolicy: (loaded: Loaded) => void;
  /** What is wrong with the new content; the last good policy stays in force. */
  readonly onProblems: (refused: NotLoaded) => void;
}

export interface WatchOptions {
  /** How often files are looked at even when the system reports nothing, milliseconds. Default 2,000. */
  readonly pollMs?: number;
  /** How long a burst of changes may go on before it is read, milliseconds. Default 100. */
  readonly settleMs?: number;
  /** Loads the policy; default {@link loadPolicy}. */
  readonly load?: (path: string) => Promise<LoadResult>;
}

const POLL_MS = 2_000;
const SETTLE_MS = 100;

/**
 * Watches a policy.
 *
 * The system's own reports make changes count at once. Looking at the files every two seconds finds what those miss:
 * folders on network file systems, and Kubernetes' ConfigMaps, whose files are links that lead elsewhere after a swap.
 *
 * @param start what was loaded before; only content that differs from it is told
 */
export function watchPolicy(
  path: string,
  start: LoadResult,
  listener: PolicyListener,
  options: WatchOptions = {},
): PolicyWatcher {
  return new PolicyWatcher(path, start, listener, options);
}

export class PolicyWatcher {
  private readonly path: string;
  private readonly listener: PolicyListener;
  private readonly settleMs: number;
  private readonly load: (path: string) => Promise<LoadResult>;
  private readonly poll: NodeJS.Timeout;
  private readonly folders = new Map<string, FSWatcher>();
  private settling: NodeJS.Timeout | undefined;
  private running: Promise<void> = Promise.resolve();
  private files: readonly string[];
  private digest: string;
  private stamp: string | undefined;
  private closed = false;

  constructor(path: string, start: LoadResult, listener: PolicyListener, options: WatchOptions) {
    this.path = path;
    this.listener = listener;
    this.settleMs = options.settleMs ?? SETTLE_MS;
    this.load = options.load ?? loadPolicy;
    this.files = start.files;
    this.digest = start.digest;
    this.watchFolders();
    this.poll = setInterval(() => void this.check(), options.pollMs ?? POLL_MS);
    this.poll.unref();
  }

  /** Looks at the files now, and reads them again if they seem to have changed; one look at a time. */
  check(): Promise<void> {
    const look = (): Promise<void> => this.look();
    // A listener that threw is told to whoever waited for that look; it does not end the watching.
    this.running = this.running.then(look, look);
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
    if (this.closed) return;
    const before = await stampOf(this.files);
    if (before === this.stamp) return;
    const result = await this.load(this.path);
    if (this.closed) return;
    // A file that was written while it was read has another stamp the next time, and is then read again.
    this.stamp = sameFiles(result.files, this.files) ? before : undefined;
    this.files = result.files;
    this.watchFolders();
    if (result.digest === this.digest) return;
    this.digest = result.digest;
    if (result.ok) this.listener.onPolicy(result);
    else this.listener.onProblems(result);
  }

  /** Folders are watched, not files: editors and ConfigMaps put new files in the place of old ones. */
  private watchFolders(): void {
    const wanted = new Set(this.files.map((file) => dirname(file)));
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
    }, this.settleMs);
    this.settling.unref();
  }
}

/** Changes whenever a file's content was written or another file came in its place; links are followed. */
async function stampOf(files: readonly string[]): Promise<string> {
  const stamps = files.map(async (file) => {
    try {
      const { dev, ino, size, mtimeNs, ctimeNs } = await stat(file, { bigint: true });
      return [dev, ino, size, mtimeNs, ctimeNs].join(" ");
    } catch {
      // Keeps the last good policy: reading it will say what is wrong.
      return "none";
    }
  });
  return (await Promise.all(stamps)).join("\n");
}

function sameFiles(left: readonly string[], right: readonly string[]): boolean {
  return left.length === right.length && left.every((file, index) => file === right[index]);
}
