/** The control plane's memory in a folder of its own: for a single process. */

import { createHash, randomBytes } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { mkdir, open, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { create, fromJsonString, toJsonString } from "@bufbuild/protobuf";
import { type Channel, FleetStateSchema, type Order, OrdersSchema } from "../gen/sallyport/control/v1/control_pb.ts";
import { OperatingError } from "../model/errors.ts";
import { DEFAULT_CHANNEL, newChannel } from "./channels.ts";
import { Reports } from "./reports.ts";
import type { FleetStore, Reported, StoreHealth } from "./store.ts";

/** The first line of the state file: format, version and SHA-256 of the rest. */
const HEADER = /^sallyport-fleet 1 ([0-9a-f]{64})$/;
const STATE = "fleet.state";
const ORDERS = "orders.state";
const DIGEST = /^[0-9a-f]{64}$/;

export interface FolderStoreOptions {
  /** `undefined`: memory only, gone with the process. */
  readonly folder: string | undefined;
  readonly reportsMax: number;
  readonly now: () => number;
  /** Told of files that cannot be used and were moved out of the way. */
  readonly onSetAside: (path: string, why: string) => void;
}

export class FolderStore implements FleetStore {
  private readonly options: FolderStoreOptions;
  private readonly states = new Map<string, Channel>([[DEFAULT_CHANNEL, newChannel(DEFAULT_CHANNEL)]]);
  /** Bundles when there is no folder. */
  private readonly held = new Map<string, Uint8Array>();
  private readonly words: Reports;
  private onChange: () => void = () => {};
  /** One change at a time. */
  private turn: Promise<unknown> = Promise.resolve();
  private trouble: string | undefined;
  private standing: ReadonlyMap<string, Order> = new Map();

  constructor(options: FolderStoreOptions) {
    this.options = options;
    this.words = new Reports(options.reportsMax, options.now);
  }

  async start(onChange: () => void): Promise<void> {
    this.onChange = onChange;
    const { folder } = this.options;
    if (folder === undefined) return;
    try {
      mkdirSync(join(folder, "bundles"), { recursive: true, mode: 0o700 });
    } catch (cause) {
      throw unwritable(folder, cause);
    }
    for (const name of readdirSync(join(folder, "bundles"))) {
      // Left by a process that died while writing.
      if (!name.endsWith(".bundle")) rmSync(join(folder, "bundles", name), { force: true });
    }
    const channels = this.read(join(folder, STATE), (body) => fromJsonString(FleetStateSchema, body).channels) ?? [];
    for (const channel of channels) this.states.set(channel.name, channel);
    const orders = this.read(join(folder, ORDERS), (body) => fromJsonString(OrdersSchema, body).put) ?? [];
    this.standing = new Map(orders.map((order) => [order.id, order]));
  }

  orders(): ReadonlyMap<string, Order> {
    return this.standing;
  }

  order(put: readonly Order[], removed: readonly string[]): Promise<void> {
    const next = this.turn.then(async () => {
      const orders = new Map(this.standing);
      for (const id of removed) orders.delete(id);
      for (const one of put) orders.set(one.id, one);
      const whole = create(OrdersSchema, { put: [...orders.values()] });
      await this.write(ORDERS, stateText(toJsonString(OrdersSchema, whole)));
      this.standing = orders;
      this.onChange();
    });
    this.turn = next.catch(() => {}); // reported to whoever asked
    return next;
  }

  channels(): ReadonlyMap<string, Channel> {
    return this.states;
  }

  update(name: string, change: (channel: Channel | undefined) => Channel): Promise<Channel> {
    const next = this.turn.then(async () => {
      const changed = change(this.states.get(name));
      const channels = new Map(this.states).set(name, changed);
      const whole = create(FleetStateSchema, { channels: [...channels.values()] });
      await this.write(STATE, stateText(toJsonString(FleetStateSchema, whole)));
      this.states.set(name, changed);
      this.onChange();
      return changed;
    });
    this.turn = next.catch(() => {}); // reported to whoever asked; the next change has its own fate
    return next;
  }

  async putBundle(digest: string, bytes: Uint8Array): Promise<void> {
    if (this.options.folder === undefined) this.held.set(digest, bytes);
    else await this.write(join("bundles", `${digest}.bundle`), bytes);
  }

  async bundle(digest: string): Promise<Uint8Array | undefined> {
    const { folder } = this.options;
    if (folder === undefined) return this.held.get(digest);
    try {
      return await readFile(join(folder, "bundles", `${digest}.bundle`));
    } catch {
      return undefined; // keeps serving the others; the channel says that it has nothing to hand out
    }
  }

  async keepBundles(digests: ReadonlySet<string>): Promise<void> {
    for (const digest of this.held.keys()) if (!digests.has(digest)) this.held.delete(digest);
    const { folder } = this.options;
    if (folder === undefined) return;
    for (const name of readdirSync(join(folder, "bundles"))) {
      const digest = name.replace(/\.bundle$/, "");
      if (DIGEST.test(digest) && !digests.has(digest)) await rm(join(folder, "bundles", name), { force: true });
    }
  }

  report(reported: Reported): void {
    this.words.put(reported);
  }

  reports(): Iterable<Reported> {
    return this.words.list();
  }

  health(): StoreHealth {
    return { ok: this.trouble === undefined, loaded: true, detail: this.trouble ?? "ok" };
  }

  async close(): Promise<void> {
    await this.turn;
  }

  /** Torn and foreign files are set aside rather than believed in part. */
  private read<Found>(path: string, parse: (body: string) => Found): Found | undefined {
    if (statSync(path, { throwIfNoEntry: false }) === undefined) return undefined;
    const text = readFileSync(path, "utf8");
    const end = text.indexOf("\n");
    const body = text.slice(end + 1);
    const sum = HEADER.exec(text.slice(0, Math.max(0, end)))?.[1];
    let why = sum === undefined ? "it has no header" : "its SHA-256 differs";
    if (sum === createHash("sha256").update(body).digest("hex")) {
      try {
        return parse(body);
      } catch {
        why = "it is of another schema"; // set aside, as torn ones are
      }
    }
    const aside = `${path}.unusable`;
    renameSync(path, aside);
    this.options.onSetAside(aside, why);
    return undefined;
  }

  private async write(name: string, content: string | Uint8Array): Promise<void> {
    const { folder } = this.options;
    if (folder === undefined) return;
    const path = join(folder, name);
    const beside = `${path}.${randomBytes(6).toString("hex")}.new`;
    try {
      await mkdir(join(folder, "bundles"), { recursive: true, mode: 0o700 });
      const file = await open(beside, "wx", 0o600);
      try {
        await file.writeFile(content);
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(beside, path);
      await syncFolder(join(path, ".."));
      this.trouble = undefined;
    } catch (cause) {
      await rm(beside, { force: true }).catch(() => {}); // the write's own error is the one to tell
      this.trouble = `cannot write: ${cause instanceof Error ? cause.message : String(cause)}`;
      throw unwritable(path, cause);
    }
  }
}

/** A rename outlives a power cut only once its folder is on disk. */
async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

function stateText(json: string): string {
  const body = `${json}\n`;
  return `sallyport-fleet 1 ${createHash("sha256").update(body).digest("hex")}\n${body}`;
}

function unwritable(path: string, cause: unknown): OperatingError {
  const why = cause instanceof Error ? cause.message : String(cause);
  return new OperatingError("ERR_STATE_UNWRITABLE", `state ${path}: cannot be written: ${why}`, { cause });
}
