/**
 * Policy from a control plane: watches what should be in force, puts bundles together from the pieces that it has and
 * those that it lacks, and reports back. What comes is verified by whoever loads it, as if it had been found anywhere.
 */

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { create, fromBinary } from "@bufbuild/protobuf";
import { type Timestamp, timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt";
import { type Client, Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { BundleSchema } from "../../gen/sallyport/bundle/v1/bundle_pb.ts";
import {
  type BundleRef,
  BundleRefSchema,
  ChunkEncoding,
  ControlService,
  type EncodedChunk,
  type FleetLock,
  type Heartbeat,
  type Order,
  OrdersSchema,
  type Revision,
  RevisionSchema,
  type StatusReport,
  StatusReportSchema,
} from "../../gen/sallyport/control/v1/control_pb.ts";
import { BEARER_EXPECTED, isBearer } from "../../model/bearer.ts";
import { OperatingError } from "../../model/errors.ts";
import type { Lock } from "../../model/policy.ts";
import { MANIFEST_BYTES_MAX, readBundle, writeBundle } from "../bundle-file.ts";
import { type Jws, readJws } from "../jws.ts";
import { readManifestPayload } from "../manifest.ts";
import { PodsTold } from "./pods-told.ts";
import type {
  ControlSourceOptions,
  OfferResult,
  PolicySource,
  RiskTold,
  SidecarReport,
  SourceListener,
} from "./source.ts";

/** Before the server has named its own interval. */
const HEARTBEAT_MS = 15_000;
/** A server that is silent for this many intervals hangs. */
const HEARTBEATS_MISSED_MAX = 3;
/** An interval that a server may name. */
const INTERVAL_MS_MAX = 600_000;
const BACKOFF_MS_MIN = 500;
const BACKOFF_MS_MAX = 60_000;
const REPORT_MS = 30_000;
/** Reports on change are gathered for a moment, so that a burst makes one. */
const REPORT_MS_MIN = 1_000;
const CALL_MS_MAX = 10_000;
/** Pieces of one request. */
const PIECES_ASKED_MAX = 4_096;
const REFUSALS_MAX = 5;
const RISK_EVENTS_MAX = 50;
/** Locks and posture facts together. */
const ORDERS_MAX = 25_000;
const MESSAGE_CHARS_MAX = 1_024;
/** A message of the server: a manifest, its roots and small pieces. */
const MESSAGE_BYTES_MAX = MANIFEST_BYTES_MAX + 4 * 1024 * 1024;

type ControlClient = Client<typeof ControlService>;

/** Addresses separated by commas are tried in turn. */
export function controlSource(options: ControlSourceOptions): PolicySource {
  return new ControlSource(options);
}

class ControlSource implements PolicySource {
  readonly kind = "control";
  readonly label: string;
  private readonly options: ControlSourceOptions;
  private readonly addresses: readonly string[];
  private readonly startedAtMs: number;
  private readonly ended = new AbortController();
  /** Pieces of a bundle that could not be completed yet, so that a broken connection does not begin it anew. */
  private gathered = new Map<string, Uint8Array>();
  private refusals: { readonly code: string; readonly message: string; readonly atMs: number }[] = [];
  /** The bundle that was offered with success, or was in force at the start. */
  private has: BundleRef | undefined;
  /** The orders that are heeded; empty: none were heard yet. */
  private ordersState = "";
  private ordersHeard = false;
  /** What is refused is not offered again until it changes. */
  private refused: string | undefined;
  private current = 0;
  private changed: () => void = () => {};
  private confirmedOnce = false;
  private reconnect: (() => void) | undefined;

  constructor(options: ControlSourceOptions) {
    this.options = options;
    this.addresses = options.address.split(",").map((address) => address.trim().replace(/\/$/, ""));
    this.label = this.addresses.join(",");
    this.startedAtMs = options.clock.now();
  }

  start(listener: SourceListener): void {
    // Begins anywhere among the addresses, so that a fleet spreads over its control planes.
    this.current = Math.floor(this.options.clock.random() * this.addresses.length);
    void this.run(listener);
  }

  /** Connects anew at once. */
  async check(): Promise<void> {
    this.reconnect?.();
  }

  close(): void {
    this.ended.abort();
  }

  private async run(listener: SourceListener): Promise<void> {
    const { clock } = this.options;
    let failures = 0;
    while (!this.ended.signal.aborted) {
      const address = this.addresses[this.current % this.addresses.length]!;
      this.confirmedOnce = false;
      try {
        await this.session(address, listener);
        if (this.ended.signal.aborted) return;
        throw new ConnectError("the server has ended the stream", Code.Unavailable);
      } catch (cause) {
        if (this.ended.signal.aborted) return;
        // Keeps the last good policy; another server, or this one later, may answer.
        const error = toError(address, cause);
        listener.failed(error);
        this.note(error);
      }
      if (this.confirmedOnce) failures = 0;
      failures++;
      this.current++;
      const most = Math.min(BACKOFF_MS_MAX, BACKOFF_MS_MIN * 2 ** Math.min(failures, 10));
      // Anywhere up to the bound: a fleet that was cut off together comes back spread out.
      await clock.sleep(BACKOFF_MS_MIN * clock.random() + most * clock.random(), this.ended.signal);
    }
  }

  /** One connection, until it ends or hangs. */
  private async session(address: string, listener: SourceListener): Promise<void> {
    const over = new AbortController();
    const end = (): void => over.abort();
    this.ended.signal.addEventListener("abort", end, { once: true });
    const silence = new Silence(end);
    const { client, close } = this.connect(address);
    this.reconnect = end;
    try {
      await this.readHeld();
      const { sidecarId, labels, version } = this.options;
      const request = {
        sidecarId,
        labels: { ...labels },
        version,
        rootVersion: this.has?.rootVersion ?? 0,
        ordersState: this.ordersState,
        wantsWorkloads: this.options.onWorkloads !== undefined,
        workloadsState: this.options.onWorkloads?.state ?? "",
        ...(this.has === undefined ? {} : { has: this.has }),
      };
      this.ordersHeard = false;
      let coming: Coming | undefined;
      const { onWorkloads } = this.options;
      const pods = onWorkloads === undefined ? undefined : new PodsTold(onWorkloads);
      silence.allow(HEARTBEAT_MS);
      void this.reportRegularly(client, over.signal);
      for await (const { news } of client.watch(request, { signal: over.signal })) {
        if (news.case === "heartbeat") {
          silence.allow(Math.min(news.value.intervalMs, INTERVAL_MS_MAX) || HEARTBEAT_MS);
          this.heard(news.value, listener);
          if (this.ordersHeard) this.options.onOrders.heard();
          const { workloads } = news.value;
          if (workloads !== undefined) pods?.heard(workloads.silentMs, workloads.broken);
        } else if (news.case === "orders") {
          silence.allow(HEARTBEAT_MS);
          coming = this.order(news.value, coming);
        } else if (news.case === "workloads") {
          silence.allow(HEARTBEAT_MS);
          pods?.take(news.value);
          // Thousands of pods come at once: requests have their turn in between.
          await new Promise((resolve) => setImmediate(resolve));
        } else if (news.case === "revision") {
          // Fetching and loading take their time; the stream is not read meanwhile, and the calls have bounds of their own.
          silence.hold();
          await this.take(fromBinary(RevisionSchema, news.value), client, listener, over.signal);
          silence.allow(HEARTBEAT_MS);
        }
      }
      if (silence.hung) throw new ConnectError("no heartbeat in time: the server hangs", Code.DeadlineExceeded);
    } catch (error) {
      if (silence.hung) throw new ConnectError("no heartbeat in time: the server hangs", Code.DeadlineExceeded);
      throw error;
    } finally {
      silence.hold();
      this.options.onWorkloads?.lost(false);
      this.reconnect = undefined;
      this.changed = () => {};
      this.ended.signal.removeEventListener("abort", end);
      over.abort();
      close();
    }
  }

  /** What is in force may have come from a disk or another source. */
  private async readHeld(): Promise<void> {
    const bytes = await this.options.held();
    this.has = undefined;
    if (bytes === undefined) return;
    try {
      const bundle = readBundle(bytes, "the bundle in force", this.options.bytesMax);
      this.has = refOf(parse(bundle.manifest));
    } catch {
      // Asks for all of it: what is in force is no bundle that differences could be told from.
    }
  }

  /** Gathers a change and hands it over with its last message; half of a whole would take locks away. */
  private order(bytes: Uint8Array, coming: Coming | undefined): Coming | undefined {
    const { put, removed, first, last, state } = fromBinary(OrdersSchema, bytes);
    const now = coming ?? { whole: false, put: [], removed: [] };
    if (now.put.length + put.length > ORDERS_MAX) {
      throw new ConnectError(`the server gave more than ${ORDERS_MAX} orders`, Code.ResourceExhausted);
    }
    const more: Coming = {
      whole: now.whole || first,
      put: [...now.put, ...put],
      removed: [...now.removed, ...removed],
    };
    if (!last) return more;
    const { onOrders } = this.options;
    onOrders.orders({
      whole: more.whole,
      removed: more.removed,
      locks: more.put.flatMap(({ what }) => (what.case === "lock" ? [lockFrom(what.value)] : [])),
      posture: more.put.flatMap(({ what }) => {
        if (what.case !== "posture") return [];
        const { subject, facts, source, reportedAt } = what.value;
        return [{ subject, facts: { facts, source, reportedAtMs: msOf(reportedAt) ?? 0 } }];
      }),
    });
    this.ordersState = state;
    this.ordersHeard = true;
    onOrders.heard();
    return undefined;
  }

  private heard({ current, channel }: Heartbeat, listener: SourceListener): void {
    this.confirmedOnce = true;
    if (current === undefined) {
      const message = `control ${this.label}: channel ${channel || "(none)"} has no bundle for this sidecar`;
      listener.failed(new OperatingError("ERR_BUNDLE_UNREACHABLE", message));
      return;
    }
    const { has } = this;
    if (has === undefined) return;
    // A sidecar that took a canary which was given up stays ahead: it has nothing newer to wait for.
    const ahead = has.name === current.name && has.revision > current.revision;
    if (has.digest === current.digest || ahead) listener.confirmed();
  }

  private async take(
    revision: Revision,
    client: ControlClient,
    listener: SourceListener,
    signal: AbortSignal,
  ): Promise<void> {
    let result: OfferResult;
    let bundle: BundleRef;
    try {
      const { manifest, jws } = parse(revision.manifest);
      bundle = refOf({ manifest, jws });
      if (bundle.digest === this.refused) return;
      const bytes = await this.assemble(revision, manifest, client, signal);
      const from = `control ${this.label}`;
      const label = `${bundle.name}:${bundle.revision} from ${from}`;
      result = await listener.offer({ kind: "bytes", label, bytes }, { from });
    } catch (cause) {
      if (cause instanceof ConnectError) throw cause;
      // Keeps the last good policy; the stream goes on, for a later revision may be whole.
      const error = cause instanceof OperatingError ? cause : toError(this.label, cause);
      listener.failed(error);
      this.note(error);
      return;
    }
    if (result.kind === "refused") {
      this.refused = bundle.digest;
      this.note(result.error);
    } else {
      this.refused = undefined;
      this.has = bundle;
    }
    this.gathered = new Map();
    this.changed();
  }

  /** @throws {OperatingError} ERR_BUNDLE_*; {ConnectError} when pieces could not be fetched */
  private async assemble(
    { roots, manifest, chunks }: Revision,
    { files }: { readonly files: readonly { readonly chunks: readonly { sha256: Uint8Array; size: number }[] }[] },
    client: ControlClient,
    signal: AbortSignal,
  ): Promise<Uint8Array> {
    const { bytesMax } = this.options;
    const wanted = new Map(files.flatMap((file) => file.chunks.map((ref) => [hex(ref.sha256), ref] as const)));
    const total = [...wanted.values()].reduce((sum, { size }) => sum + size, 0);
    if (total > bytesMax) {
      throw new OperatingError(
        "ERR_BUNDLE_TOO_LARGE",
        `control ${this.label}: expected a bundle of at most ${bytesMax} bytes, got one of ${total}`,
      );
    }
    const pieces = new Map<string, Uint8Array>();
    for (const [name, data] of this.gathered) if (wanted.has(name)) pieces.set(name, data);
    this.gathered = pieces;
    const own = await this.options.held();
    if (own !== undefined) {
      try {
        for (const { data } of readBundle(own, "the bundle in force", bytesMax).chunks) {
          const name = sha256(data);
          if (wanted.has(name)) pieces.set(name, data);
        }
      } catch {
        // What is in force is no bundle: everything is fetched.
      }
    }
    const put = (chunk: EncodedChunk): void => {
      const name = hex(chunk.sha256);
      const ref = wanted.get(name);
      if (ref !== undefined && !pieces.has(name)) pieces.set(name, unpack(chunk, ref.size, this.label));
    };
    for (const chunk of chunks) put(chunk);
    const missing = [...wanted].filter(([name]) => !pieces.has(name)).map(([, ref]) => ref.sha256);
    for (let from = 0; from < missing.length; from += PIECES_ASKED_MAX) {
      const asked = missing.slice(from, from + PIECES_ASKED_MAX);
      const patience = new Silence(() => waiting.abort());
      const waiting = new AbortController();
      signal.addEventListener("abort", () => waiting.abort(), { once: true, signal: waiting.signal });
      try {
        patience.allow(HEARTBEAT_MS);
        for await (const { chunk } of client.getChunks({ sha256: asked }, { signal: waiting.signal })) {
          patience.allow(HEARTBEAT_MS);
          if (chunk !== undefined) put(chunk);
        }
      } finally {
        patience.hold();
        waiting.abort();
      }
      if (asked.some((name) => !pieces.has(hex(name)))) {
        throw new ConnectError("the server left out pieces that it was asked for", Code.DataLoss);
      }
    }
    const ordered = [...wanted.keys()].map((name) => ({ data: pieces.get(name)! }));
    return writeBundle(create(BundleSchema, { roots: [...roots], manifest, chunks: ordered }));
  }

  /** @throws {OperatingError} ERR_CONFIG_INVALID when a file cannot be read */
  private connect(address: string): { readonly client: ControlClient; readonly close: () => void } {
    const { tokenFile, certFile, keyFile, caFile } = this.options;
    const token = tokenFile === undefined ? undefined : readText("token file", tokenFile).trim();
    if (token !== undefined && !isBearer(token)) {
      throw new OperatingError("ERR_CONFIG_INVALID", `token file ${tokenFile}: expected ${BEARER_EXPECTED}`);
    }
    const authorize: Interceptor = (next) => (request) => {
      if (token !== undefined) request.header.set("authorization", `Bearer ${token}`);
      return next(request);
    };
    const nodeOptions = {
      ...(certFile === undefined ? {} : { cert: readText("certificate", certFile) }),
      ...(keyFile === undefined ? {} : { key: readText("key", keyFile) }),
      ...(caFile === undefined ? {} : { ca: readText("authorities", caFile) }),
    };
    // No pings: the watch has heartbeats of its own, and a ping that times out ends this library's session with an error
    // that nobody can catch.
    const sessionManager = new Http2SessionManager(address, {}, nodeOptions);
    const transport = createConnectTransport({
      httpVersion: "2",
      baseUrl: address,
      sessionManager,
      interceptors: [authorize],
      acceptCompression: [],
      readMaxBytes: MESSAGE_BYTES_MAX,
    });
    return { client: createClient(ControlService, transport), close: () => sessionManager.abort() };
  }

  private async reportRegularly(client: ControlClient, signal: AbortSignal): Promise<void> {
    const { clock } = this.options;
    while (!signal.aborted) {
      try {
        const riskEvents = this.options.report().riskEvents.slice(0, RISK_EVENTS_MAX);
        await client.report({ status: this.status(riskEvents) }, { timeoutMs: CALL_MS_MAX, signal });
        this.options.onOrders.told(riskEvents);
      } catch {
        // The watch tells of a server that is gone; a report that was refused is answered by the next one.
      }
      const news = new AbortController();
      this.changed = () => news.abort();
      const either = AbortSignal.any([news.signal, signal]);
      await clock.sleep(REPORT_MS * (1 - 0.2 * clock.random()), either);
      await clock.sleep(REPORT_MS_MIN * clock.random(), signal);
    }
  }

  private status(riskEvents: readonly RiskTold[]): StatusReport {
    const { sidecarId, labels, version, report } = this.options;
    const now: SidecarReport = report();
    const { problem } = now;
    const known = this.refusals;
    if (problem !== undefined && known[0]?.message !== problem.message) this.note(problem);
    const inForce = now.bundle;
    return create(StatusReportSchema, {
      sidecarId,
      labels: { ...labels },
      version,
      startedAt: timestampFromMs(this.startedAtMs),
      ...(inForce === undefined
        ? {}
        : {
            inForce: create(BundleRefSchema, {
              name: inForce.name,
              revision: BigInt(inForce.revision),
              digest: inForce.digest,
              rootVersion: this.has?.digest === inForce.digest ? this.has.rootVersion : 0,
            }),
          }),
      policyRevision: now.policyRevision.slice(0, 128),
      freshness: now.freshness,
      mode: now.mode,
      refusals: this.refusals.map(({ code, message, atMs }) => ({ code, message, at: timestampFromMs(atMs) })),
      checks: BigInt(now.checks),
      decisions: Object.fromEntries(Object.entries(now.decisions).map(([kind, count]) => [kind, BigInt(count)])),
      scoreRates: now.scoreBands.slice(0, 8).map(({ score, observed }) => ({ score, observed })),
      rootVersion: this.has?.rootVersion ?? 0,
      riskEvents: riskEvents.map(({ atMs, ...event }) => ({ ...event, at: timestampFromMs(Math.floor(atMs)) })),
    });
  }

  private note({ code, message }: { readonly code: string; readonly message: string }): void {
    const atMs = this.options.clock.now();
    const short = message.slice(0, MESSAGE_CHARS_MAX);
    const others = this.refusals.filter((refusal) => refusal.message !== short);
    this.refusals = [{ code, message: short, atMs }, ...others].slice(0, REFUSALS_MAX);
  }
}

/** A change of orders that is not whole yet. */
interface Coming {
  readonly whole: boolean;
  readonly put: readonly Order[];
  readonly removed: readonly string[];
}

function lockFrom(lock: FleetLock): Lock {
  const part = (value: string): string | undefined => (value === "" ? undefined : value);
  return {
    id: lock.id,
    scope: {
      principal: part(lock.principal),
      credential: part(lock.credential),
      certificate: part(lock.certificate),
      key: part(lock.key),
      fingerprint: part(lock.fingerprint),
      address: part(lock.address),
      destination: part(lock.destination),
      peerGroup: part(lock.peerGroup),
    },
    reason: lock.reason,
    setBy: lock.setBy,
    setAtMs: msOf(lock.setAt) ?? 0,
    expiresAtMs: msOf(lock.expiresAt),
  };
}

function msOf(time: Timestamp | undefined): number | undefined {
  return time === undefined ? undefined : timestampMs(time);
}

/** Notices when nothing is heard for too long. */
class Silence {
  hung = false;
  private readonly onHung: () => void;
  private timer: NodeJS.Timeout | undefined;

  constructor(onHung: () => void) {
    this.onHung = onHung;
  }

  allow(intervalMs: number): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.hung = true;
      this.onHung();
    }, intervalMs * HEARTBEATS_MISSED_MAX).unref();
  }

  hold(): void {
    clearTimeout(this.timer);
  }
}

interface Parsed {
  readonly manifest: Exclude<ReturnType<typeof readManifestPayload>, string>;
  readonly jws: Jws;
}

/** Reads a manifest whose signatures nobody has looked at yet: only to know which pieces to fetch. */
function parse(text: string): Parsed {
  const jws = readJws(text, "manifest");
  const manifest = readManifestPayload(jws.bytes);
  if (typeof manifest === "string") throw new OperatingError("ERR_BUNDLE_INVALID", `manifest: ${manifest}`);
  return { manifest, jws };
}

function refOf({ manifest, jws }: Parsed): BundleRef {
  const { name, revision, rootVersion } = manifest;
  return create(BundleRefSchema, { name, revision, digest: sha256(jws.bytes), rootVersion });
}

/** @throws {OperatingError} ERR_BUNDLE_INVALID: it is not what its name says */
function unpack({ sha256: name, encoding, data }: EncodedChunk, size: number, label: string): Uint8Array {
  let plain: Uint8Array;
  try {
    // The signed manifest says how long it is: decompression stops there.
    plain = encoding === ChunkEncoding.GZIP ? gunzipSync(data, { maxOutputLength: size }) : data;
  } catch (cause) {
    throw new OperatingError("ERR_BUNDLE_INVALID", `control ${label}: a piece cannot be uncompressed within its size`, {
      cause,
    });
  }
  if (plain.byteLength === size && sha256(plain) === hex(name)) return new Uint8Array(plain);
  throw new OperatingError("ERR_BUNDLE_INVALID", `control ${label}: a piece is not what its SHA-256 says`);
}

function toError(address: string, cause: unknown): OperatingError {
  if (cause instanceof OperatingError) return cause;
  const { rawMessage, code } = ConnectError.from(cause);
  return new OperatingError("ERR_BUNDLE_UNREACHABLE", `control ${address}: ${Code[code]}: ${rawMessage}`, { cause });
}

function readText(what: string, path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (cause) {
    throw new OperatingError("ERR_CONFIG_INVALID", `${what} ${path}: expected a file that can be read`, { cause });
  }
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}
