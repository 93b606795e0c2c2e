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
  /** Told once per spell of failures of what keeps tokens from being reviewed; it never holds a token. */
  readonly onFailure: (error: unknown) => void;
}

/** Of good tokens that are remembered; as many as twice the sidecars that may watch. The one asked about longest ago goes. */
const GOOD_MAX = 20_000;
/** Of others, which anybody can make up: they take no place from the good ones. */
const OTHERS_MAX = 4_000;
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

type Judged =
  | { readonly kind: "plausible" }
  | { readonly kind: "refused"; readonly why: string }
  /** None of the cluster's business: it is not shown to it. */
  | { readonly kind: "other" };

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
  private readonly good = new Map<string, Remembered>();
  private readonly others = new Map<string, Remembered>();
  private readonly waiting: (() => void)[] = [];
  private underWay = 0;
  private failing = false;
  private readonly options: ServiceAccountsOptions;

  constructor(options: ServiceAccountsOptions) {
    this.options = options;
  }

  /** Has the API asked about the token of a call, if it shows one that may be a service account's. */
  async prepare(authorization: string | undefined): Promise<void> {
    const token = tokenOf(authorization);
    if (token === undefined || this.judge(token).kind !== "plausible") return;
    const key = keyOf(token);
    const found = this.known(key);
    if (found === undefined) return await this.ask(key, token);
    if (found.result.ok) return;
    if (found.asking !== undefined || this.options.now() - found.atMs >= REFUSED_MS) await this.ask(key, token);
  }

  /** What is known of a call's token; `undefined`: it shows none that may be a service account's. */
  find(authorization: string | undefined): Reviewed | undefined {
    const token = tokenOf(authorization);
    if (token === undefined) return undefined;
    const judged = this.judge(token);
    if (judged.kind === "other") return undefined;
    if (judged.kind === "refused") return { ok: false, why: judged.why };
    const key = keyOf(token);
    const found = this.known(key);
    if (found === undefined) return { ok: false, why: "the service account's token was not reviewed" };
    const nowMs = this.options.now();
    if (!found.result.ok) return found.result;
    if (nowMs - found.atMs >= AGAIN_MS) void this.ask(key, token);
    return found.result;
  }

  private async ask(key: string, token: string): Promise<void> {
    const before = this.known(key);
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
      this.failing = false;
      return resultOf(answer, token, audience);
    } catch (error) {
      if (!this.failing) this.options.onFailure(error); // whoever called is refused, and calls again
      this.failing = true;
      return undefined;
    } finally {
      this.underWay--;
      this.waiting.shift()?.();
    }
  }

  private known(key: string): Remembered | undefined {
    return this.good.get(key) ?? this.others.get(key);
  }

  private keep(key: string, entry: Remembered): void {
    this.good.delete(key);
    this.others.delete(key);
    const [kept, most] = entry.result.ok ? [this.good, GOOD_MAX] : [this.others, OTHERS_MAX];
    kept.set(key, entry);
    if (kept.size <= most) return;
    const oldest = kept.keys().next();
    if (!oldest.done) kept.delete(oldest.value);
  }

  /** What a token says of itself, which is enough to refuse it: the cluster is not asked then. */
  private judge(token: string): Judged {
    const { audience, now } = this.options;
    const { aud, exp, sub } = payloadOf(token);
    if (aud !== audience && !(Array.isArray(aud) && aud.includes(audience))) {
      const isAccounts = typeof sub === "string" && USER.test(sub);
      if (!isAccounts) return { kind: "other" };
      const why = `the service account's token is not for ${audience} (kubernetes-token-audience)`;
      return { kind: "refused", why };
    }
    if (typeof exp !== "number" || !Number.isFinite(exp)) {
      return { kind: "refused", why: "expected a service account's token that ends (exp)" };
    }
    if (exp * SECOND_MS <= now()) return { kind: "refused", why: "the service account's token has expired" };
    return { kind: "plausible" };
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
  // The API has found the token good: what it says of itself is true, and that it ends was seen before it was asked.
  const { exp } = payloadOf(token);
  const [, namespace = "", name = ""] = parts;
  return { ok: true, account: { namespace, name, untilMs: Number(exp) * SECOND_MS } };
}
