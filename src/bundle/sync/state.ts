/** The last good bundle on disk, and whose signatures counted when it was put in force. */

import { mkdir, open, readFile, rename, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { OperatingError } from "../../model/errors.ts";

const FOLDER = "policy";
const BUNDLE = "last-good.bundle";
const TRUST = "trust.json";
/** A trust file is a few keys; more is not ours. */
const TRUST_BYTES_MAX = 16 * 1024 * 1024;

export interface KeptPolicy {
  /** `undefined`: none was kept. */
  readonly bundle: Uint8Array | undefined;
  /** Text of the trust file; `undefined`: none was kept. */
  readonly trust: string | undefined;
}

/** The steps of a write; replaced in tests to end it between any two. */
export interface StateDisk {
  /** Writes a whole file and waits until the disk has it. */
  writeSynced(path: string, bytes: Uint8Array): Promise<void>;
  /** Puts one file in another's place, and waits until the disk knows. */
  replace(from: string, to: string): Promise<void>;
}

/**
 * `STATE_DIR/policy`: `last-good.bundle` and `trust.json`.
 *
 * Bytes come before trust. A bundle brings the roots that lead from any older trust to its own, so that a new bundle
 * beside the old trust verifies; the old bundle beside a new trust would be a rollback. Each file is written beside,
 * synced and renamed, so a crash at any moment leaves a pair that can be used.
 */
export class PolicyState {
  readonly bundlePath: string;
  readonly trustPath: string;
  private readonly disk: StateDisk;

  constructor(stateDir: string, disk: StateDisk = DISK) {
    this.bundlePath = join(stateDir, FOLDER, BUNDLE);
    this.trustPath = join(stateDir, FOLDER, TRUST);
    this.disk = disk;
  }

  /**
   * What was kept; files left half-written by a crash are not looked at.
   * @throws {OperatingError} ERR_STATE_INVALID when a file is there and cannot be read, or is larger than it may be
   */
  async read(bytesMax: number): Promise<KeptPolicy> {
    const bundle = await readBounded(this.bundlePath, bytesMax);
    const trust = await readBounded(this.trustPath, TRUST_BYTES_MAX);
    return { bundle, trust: trust?.toString("utf8") };
  }

  /** @throws {OperatingError} ERR_STATE_UNWRITABLE; what was kept before is then still there and still fits together */
  async write(bundle: Uint8Array, trust: string): Promise<void> {
    await this.put(this.bundlePath, bundle);
    await this.put(this.trustPath, Buffer.from(trust));
  }

  /** Moves what cannot be used out of the way, keeping it for a look; returns where it went. */
  async setAside(path: string): Promise<string> {
    const to = `${path}.unusable`;
    try {
      await rename(path, to);
    } catch (cause) {
      throw unwritable(to, cause);
    }
    return to;
  }

  private async put(path: string, bytes: Uint8Array): Promise<void> {
    try {
      await mkdir(dirname(path), { recursive: true, mode: 0o700 });
      await this.disk.writeSynced(`${path}.new`, bytes);
      await this.disk.replace(`${path}.new`, path);
    } catch (cause) {
      throw unwritable(path, cause);
    }
  }
}

const DISK: StateDisk = {
  writeSynced: async (path, bytes) => {
    const file = await open(path, "w", 0o600);
    try {
      await file.writeFile(bytes);
      await file.sync();
    } finally {
      await file.close();
    }
  },
  replace: async (from, to) => {
    await rename(from, to);
    const folder = await open(dirname(to), "r");
    try {
      await folder.sync();
    } finally {
      await folder.close();
    }
  },
};

async function readBounded(path: string, bytesMax: number): Promise<Buffer | undefined> {
  try {
    const { size } = await stat(path);
    if (size > bytesMax) throw new Error(`${size} bytes, more than ${bytesMax}`);
    return await readFile(path);
  } catch (cause) {
    if (cause instanceof Error && "code" in cause && cause.code === "ENOENT") return undefined; // a first start
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new OperatingError("ERR_STATE_INVALID", `state ${path}: cannot be read: ${why}`, { cause });
  }
}

function unwritable(path: string, cause: unknown): OperatingError {
  const why = cause instanceof Error ? cause.message : String(cause);
  return new OperatingError("ERR_STATE_UNWRITABLE", `state ${path}: cannot be written: ${why}`, { cause });
}
