/** Keys, tokens, configurations and servers for tests of shared signals. */

import { createHash, generateKeyPairSync, type KeyObject, randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CompactSign } from "jose";
import { readSharedSignals, type SharedSignalsConfig } from "../../src/shared-signals/config.ts";
import type { SharedSignalAction } from "../../src/shared-signals/mapping.ts";
import type { Surroundings } from "../../src/shared-signals/surroundings.ts";

/** A moment at which all made-up tokens are issued: 2021-03-09T15:52:39Z, as in CAEP's examples. */
export const ISSUED_AT = 1_615_305_159;
export const NOW_MS = ISSUED_AT * 1_000;

export const IDP = "https://idp.example.com/";
export const AUDIENCE = "https://sallyport.example.com";
export const PUSH_TOKEN = "push-token-of-the-idp";

export interface Pair {
  readonly privateKey: KeyObject;
  readonly publicKey: KeyObject;
}

export function ecPair(): Pair {
  return generateKeyPairSync("ec", { namedCurve: "P-256" });
}

export function jwks(...pairs: readonly (readonly [kid: string, pair: Pair])[]): string {
  return JSON.stringify({
    keys: pairs.map(([kid, { publicKey }]) => ({ ...publicKey.export({ format: "jwk" }), kid, use: "sig" })),
  });
}

export function sign(
  claims: unknown,
  key: KeyObject | Uint8Array,
  header: Readonly<Record<string, unknown>> = {},
): Promise<string> {
  const text = typeof claims === "string" ? claims : JSON.stringify(claims);
  return new CompactSign(new TextEncoder().encode(text))
    .setProtectedHeader({ typ: "secevent+jwt", alg: "ES256", kid: "one", ...header })
    .sign(key);
}

export const CAEP = "https://schemas.openid.net/secevent/caep/event-type/";

/** Claims of a good token; `undefined` takes one out. */
export function claims(changes: Readonly<Record<string, unknown>> = {}): Record<string, unknown> {
  return {
    iss: IDP,
    jti: "one",
    iat: ISSUED_AT,
    aud: AUDIENCE,
    txn: "8675309",
    sub_id: { format: "iss_sub", iss: IDP, sub: "billing" },
    events: { [`${CAEP}session-revoked`]: { event_timestamp: ISSUED_AT - 100 } },
    ...changes,
  };
}

export function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

/** @throws {Error} with all problems when the text is no good configuration */
export function configOf(text: string): SharedSignalsConfig {
  const read = readSharedSignals(text, "signals.yaml");
  if (!read.ok) throw new Error(JSON.stringify(read.problems));
  return read.config;
}

/** What the code under test said. */
export class Told {
  readonly logs: {
    readonly level: string;
    readonly event: string;
    readonly fields: object;
    readonly message: string;
  }[] = [];
  readonly counts = new Map<string, number>();

  log(level: string, event: string, fields: object, message: string): void {
    this.logs.push({ level, event, fields, message });
  }

  count(name: string, labels: Readonly<Record<string, string>>): void {
    const key = [name, ...Object.values(labels)].join(" ");
    this.counts.set(key, (this.counts.get(key) ?? 0) + 1);
  }

  events(): readonly string[] {
    return this.logs.map(({ event }) => event);
  }
}

export interface Clock {
  ms: number;
}

export function surroundings(
  told: Told,
  options: { readonly folder?: string; readonly clock?: Clock; readonly fetch?: typeof fetch } = {},
): Surroundings {
  return {
    now: () => options.clock?.ms ?? NOW_MS,
    random: () => 0.5,
    randomBytes: (size) => randomBytes(size),
    fetch: options.fetch ?? fetch,
    folder: options.folder,
    telling: told,
  };
}

interface Test {
  teardown(fn: () => unknown): void;
}

export function scratch(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), "sallyport-ssf-"));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

export type Handler = (request: IncomingMessage, response: ServerResponse) => void;

/** A server whose handler can be changed: a process that comes and goes behind one address. */
export class Place {
  handler: Handler = (_, response) => {
    response.writeHead(503).end();
  };
  readonly server: Server;
  url = "";

  constructor() {
    this.server = createServer((request, response) => this.handler(request, response));
  }

  static async open(t: Test): Promise<Place> {
    const place = new Place();
    await new Promise<void>((resolve) => place.server.listen(0, "127.0.0.1", resolve));
    place.url = `http://127.0.0.1:${(place.server.address() as AddressInfo).port}`;
    t.teardown(() => {
      place.server.closeAllConnections();
      place.server.close();
    });
    return place;
  }

  /** Requests go to the first that says that they are its own. */
  serve(...parts: readonly { handle(request: IncomingMessage, response: ServerResponse): boolean }[]): void {
    this.handler = (request, response) => {
      if (!parts.some((part) => part.handle(request, response))) response.writeHead(404).end();
    };
  }
}

/** Collects what is to be done, and lets tests wait for it. */
export class Deeds {
  readonly all: SharedSignalAction[] = [];
  private readonly waiting: (() => void)[] = [];
  /** Thrown by the next calls. */
  failures = 0;

  readonly apply = async (actions: readonly SharedSignalAction[]): Promise<void> => {
    if (this.failures > 0) {
      this.failures--;
      throw new Error("the store is away");
    }
    this.all.push(...actions);
    for (const check of this.waiting.splice(0)) check();
  };

  async until(count: number): Promise<void> {
    while (this.all.length < count) await new Promise<void>((resolve) => this.waiting.push(resolve));
  }
}

/** Looks again and again until something is so: for what no event tells. Tests end by their own time limit. */
export async function until(check: () => boolean): Promise<void> {
  while (!check()) await new Promise((resolve) => setTimeout(resolve, 5));
}
