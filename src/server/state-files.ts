/** What outlives a restart: everything learned, and the key under which credentials are hashed. */

import { randomBytes } from "node:crypto";
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { type FileHandle, open, rename } from "node:fs/promises";
import { join } from "node:path";
import { MessageChannel } from "node:worker_threads";
import { OperatingError } from "../model/errors.ts";

const STATE = "baselines.state";
const KEY = "credential-hash.key";
const NONCE_KEY = "challenge-nonce.key";
const KEY_BYTES = 32;

/** Of a disk that takes nothing now: no reason not to start. */
const PASSING = new Set(["EROFS", "ENOSPC", "EDQUOT"]);

export class StateFiles {
  private readonly folder: string;

  /** @throws {OperatingError} ERR_STATE_UNWRITABLE when there can be no such folder; a full or read-only disk shows later */
  constructor(folder: string) {
    this.folder = folder;
    try {
      mkdirSync(folder, { recursive: true, mode: 0o700 });
    } catch (cause) {
      if (cause instanceof Error && "code" in cause && PASSING.has(String(cause.code))) return;
      throw unwritable(folder, cause);
    }
  }

  /**
   * The key of credential hashes: the same over restarts, so that remembered credentials stay recognisable.
   * @throws {OperatingError} ERR_STATE_UNWRITABLE when there is none that can be used, and none can be kept
   */
  credentialKey(): Uint8Array {
    return this.key(KEY);
  }

  /**
   * The secret of challenges' nonces: the same over restarts, so that a challenge put before one can be answered.
   * @throws {OperatingError} ERR_STATE_UNWRITABLE when there is none that can be used, and none can be kept
   */
  nonceSecret(): Uint8Array {
    return this.key(NONCE_KEY);
  }

  private key(name: string): Uint8Array {
    const path = join(this.folder, name);
    try {
      if (existsSync(path)) {
        const key = readFileSync(path);
        if (key.length === KEY_BYTES) return key;
        this.setAside(name);
      }
    } catch (cause) {
      throw unwritable(path, cause);
    }
    const key = randomBytes(KEY_BYTES);
    this.replace(name, key);
    return key;
  }

  /** The last snapshot, or `undefined` on a first start. */
  read(): Uint8Array | undefined {
    const path = join(this.folder, STATE);
    return existsSync(path) ? readFileSync(path) : undefined;
  }

  /**
   * Writes a snapshot: to a file beside, synced, then renamed over the old one, so that a crash at any moment leaves
   * one whole file.
   * @throws {OperatingError} ERR_STATE_UNWRITABLE; the old snapshot is then still there
   */
  write(bytes: Uint8Array): void {
    this.replace(STATE, bytes);
  }

  /**
   * The same in slices, without waiting for the disk in between. Neither this nor {@link StateFiles.write} may be called
   * before it has ended.
   * @param next the next bytes, good until it is asked again; `end` after the last, or `given up` to leave the old snapshot
   * @returns whether the snapshot is now the new one
   * @throws {OperatingError} ERR_STATE_UNWRITABLE, or whatever `next` throws; the old snapshot is then still there
   */
  async writeSlices(next: () => Promise<Uint8Array | "end" | "given up">): Promise<boolean> {
    const path = join(this.folder, STATE);
    const beside = `${path}.new`;
    const told = <Result>(work: Promise<Result>): Promise<Result> =>
      work.catch((cause: unknown) => {
        throw unwritable(path, cause);
      });
    const file = await told(open(beside, "w", 0o600));
    try {
      for (;;) {
        const slice = await next();
        if (slice === "given up") return false;
        if (slice === "end") break;
        await told(writeWhole(file, slice));
      }
      await told(file.sync());
    } finally {
      await told(file.close());
    }
    await told(rename(beside, path));
    return true;
  }

  /** Moves a file that cannot be used out of the way, keeping it for a look; returns where it went. */
  setAside(name: string = STATE): string {
    const from = join(this.folder, name);
    const to = `${from}.unusable`;
    renameSync(from, to);
    return to;
  }

  private replace(name: string, bytes: Uint8Array): void {
    const path = join(this.folder, name);
    const beside = `${path}.new`;
    try {
      const file = openSync(beside, "w", 0o600);
      try {
        let written = 0;
        while (written < bytes.length) written += writeSync(file, bytes, written);
        fsyncSync(file);
      } finally {
        closeSync(file);
      }
      renameSync(beside, path);
    } catch (cause) {
      throw unwritable(path, cause);
    }
  }
}

/**
 * Gives the memory of what was read back, shortly afterwards; the bytes are empty from here on. A snapshot is some
 * megabytes, and a quiet sidecar may not come to the collection that would free them for a long time.
 */
export function release(bytes: Uint8Array): void {
  const { buffer } = bytes;
  if (!(buffer instanceof ArrayBuffer) || buffer.byteLength !== bytes.byteLength) return; // others may have a part of it
  // Handed over to nobody: what is on its way to a port goes with the port.
  const { port1, port2 } = new MessageChannel();
  port1.postMessage(buffer, [buffer]);
  port1.close();
  port2.close();
}

/** Writes a file of the operator's choice, for exports. */
export function writeExport(path: string, bytes: Uint8Array): void {
  try {
    writeFileSync(path, bytes, { mode: 0o600 });
  } catch (cause) {
    throw unwritable(path, cause);
  }
}

async function writeWhole(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let written = 0; written < bytes.length; ) {
    written += (await file.write(bytes, written)).bytesWritten;
  }
}

function unwritable(path: string, cause: unknown): OperatingError {
  const why = cause instanceof Error ? cause.message : String(cause);
  return new OperatingError("ERR_STATE_UNWRITABLE", `state ${path}: cannot be written: ${why}`, { cause });
}
