/** Callers that show a service account's token: a Kubernetes cluster says whether it is good, and whose it is. */

import { createHash } from "node:crypto";
import { decodeJwt, type JWTPayload } from "jose";
import { MINUTE_MS, SECOND_MS } from "../model/units.ts";

/** Whose a token is. */
export interface ServiceAccount {
  readonly namespace: string;
  readonly name: string;
  /** When the token ends, milliseconds since the epoch. */
  readonly untilMs: number;
}

export type Reviewed =
  | { readonly ok: true; readonly account: ServiceAccount }
  | { readonly ok: false; readonly why: string };

export interface ServiceAccountsOptions {
  /** What tokens must be meant for: `audience` of the projected volume. */
  readonly audience: string;
  /**
   * Creates a TokenReview (`authentication.k8s.io/v1`) and returns it as the API answered it.
   * @throws {Error} when the API cannot be asked or refuses
   */
  readonly review: (review: unknown) => Promise<unknown>;
  readonly now: () => number;
  /** Told of what kept a token from being reviewed; it never holds the token. */
  readonly onFailure: (error: unknown) => void;
}

/** Of tokens that are remembered; as many as twice the sidecars that may watch. */
const REMEMBERED_MAX = 20_000;
/** A token that was good is asked about again after so long: its pod may be gone. */
const AGAIN_MS = 5 * MINUTE_MS;
/** An API that did not answer is asked again about it after so long. */
const SILENT_MS = 30 * SECOND_MS;
/** A token that was not good is not asked about again before. */
const REFUSED_MS = 10 * SECOND_MS;
/** Reviews under way; further ones wait for them, a bounded number. */
const UNDER_WAY_MAX = 16;
const WAITING_MAX = 10_000;
/** A projected token has some 1,500 characters. */
const TOKEN_CHARS_MAX = 8_192;
const USER = /^system:serviceaccount:([a-z0-9][-a-z0-9]{0,62}):([a-z0-9][-a-z0-9.]{0,252})$/;

interface Remembered {
  readonly result: Reviewed;
  atMs: number;
  asking: Promise<void> | undefined;
}

/**
 * Tokens by their SHA-256, with what the API said of them. Asking takes a moment: it is done before a call is looked at
 * ({@link prepare}), and what is known then is told at once ({@link find}). A token that was good stays so until it ends,
 * unless the API says otherwise meanwhile; an API that does not answer takes nothing away.
 */
export class ServiceAccounts {
  private readonly known = new Map<string, Remembered>();
  private readonly waiting: (() => void)[] = [];
  private underWay = 0;
  private readonly options: ServiceAccountsOptions;

  constructor(options: ServiceAccountsOptions) {
    this.options = options;
  }

  /** Has the API asked about the token of a call, if it shows one that may be a service account's. */
  async prepare(authorization: string | undefined): Promise<void> {
    const token = tokenOf(authorization);
    if (token === undefined || !this.isMeantForUs(token)) return;
    const key = keyOf(token);
    const found = this.known.get(key);
    if (found === undefined) return await this.ask(key, token);
    if (found.result.ok) return;
    if (found.asking !== undefined || this.options.now() - found.atMs >= REFUSED_MS) await this.ask(key, token);
  }

  /** What is known of a call's token; `undefined`: it shows none that may be a service account's. */
  find(authorization: string | undefined): Reviewed | undefined {
    const token = tokenOf(authorization);
    if (token === undefined || !this.isMeantForUs(token)) return undefined;
    const key = keyOf(token);
    const found = this.known.get(key);
    if (found === undefined) return { ok: false, why: "the service account's token was not reviewed" };
    const nowMs = this.options.now();
    if (!found.result.ok) return found.result;
    if (found.result.account.untilMs <= nowMs) return { ok: false, why: "the service account's token has expired" };
    if (nowMs - found.atMs >= AGAIN_MS) void this.ask(key, token);
    return found.result;
  }

  private async ask(key: string, token: string): Promise<void> {
    const before = this.known.get(key);
    if (before?.asking !== undefined) return before.asking;
    const entry: Remembered = before ?? {
      result: { ok: false, why: "the service account's token is being reviewed" },
      atMs: this.options.now(),
      asking: undefined,
    };
    entry.asking = this.reviewed(token).then((result) => {
      entry.asking = undefined;
      // The API's silence takes nothing away from a token that it called good; it is asked again soon.
      if (result === undefined && before?.result.ok === true) {
        before.atMs = this.options.now() - AGAIN_MS + SILENT_MS;
        return;
      }
      const why = "the Kubernetes API could not be asked about the service account's token";
      this.keep(key, { result: result ?? { ok: false, why }, atMs: this.options.now(), asking: undefined });
    });
    if (before === undefined) this.keep(key, entry);
    return entry.asking;
  }

  /** `undefined`: the API did not say. */
  private async reviewed(token: string): Promise<Reviewed | undefined> {
    if (this.waiting.length >= WAITING_MAX) return undefined;
    if (this.underWay >= UNDER_WAY_MAX) await new Promise<void>((resolve) => this.waiting.push(resolve));
    this.underWay++;
    try {
      const { audience, review } = this.options;
      const spec = { token, audiences: [audience] };
      const answer = await review({ apiVersion: "authentication.k8s.io/v1", kind: "TokenReview", spec });
      return resultOf(answer, token, audience);
    } catch (error) {
      this.options.onFailure(error); // whoever called is refused, and calls again
      return undefined;
    } finally {
      this.underWay--;
      this.waiting.shift()?.();
    }
  }

  private keep(key: string, entry: Remembered): void {
    this.known.delete(key);
    this.known.set(key, entry);
    if (this.known.size <= REMEMBERED_MAX) return;
    const oldest = this.known.keys().next();
    if (!oldest.done) this.known.delete(oldest.value);
  }

  /** Other tokens are none of the cluster's business, and are not shown to it. */
  private isMeantForUs(token: string): boolean {
    const { aud } = payloadOf(token);
    return aud === this.options.audience || (Array.isArray(aud) && aud.includes(this.options.audience));
  }
}

/** The token of an `authorization` header that has the form of a JWT (RFC 6750, section 2.1; RFC 7519, section 3). */
function tokenOf(authorization: string | undefined): string | undefined {
  const token = /^bearer +([\w-]+\.[\w-]+\.[\w-]+)$/i.exec(authorization ?? "")?.[1];
  return token === undefined || token.length > TOKEN_CHARS_MAX ? undefined : token;
}

/** What a token says of itself, unverified. */
function payloadOf(token: string): JWTPayload {
  try {
    return decodeJwt(token);
  } catch {
    return {}; // no JWT: nobody's token
  }
}

function keyOf(token: string): string {
  return createHash("sha256").update(token).digest("base64");
}

/** What a TokenReview says (`TokenReviewStatus`): good, for this audience, and a service account's. */
function resultOf(answer: unknown, token: string, audience: string): Reviewed {
  const { status } = (answer ?? {}) as { readonly status?: Readonly<Record<string, unknown>> };
  if (status?.authenticated !== true)
    return { ok: false, why: "the cluster does not accept the service account's token" };
  // A server that knows nothing of audiences names none, and would take a token that is meant for it alone.
  if (!Array.isArray(status.audiences) || !status.audiences.includes(audience)) {
    return { ok: false, why: `the service account's token is not for ${audience}` };
  }
  const { username } = (status.user ?? {}) as { readonly username?: unknown };
  const parts = typeof username === "string" ? USER.exec(username) : null;
  if (parts === null) return { ok: false, why: "the token is no service account's" };
  // The API has found the token good: what it says of itself is true.
  const { exp } = payloadOf(token);
  if (typeof exp !== "number" || !Number.isFinite(exp)) {
    return { ok: false, why: "expected a service account's token that ends (exp)" };
  }
  const [, namespace = "", name = ""] = parts;
  return { ok: true, account: { namespace, name, untilMs: exp * SECOND_MS } };
}
