/**
 * Nonces without memory (RFC 9449, section 8): an issue time under a MAC whose key comes from one secret of the fleet.
 *
 * A nonce is bound to its purpose and to nothing else. Client libraries remember one nonce per origin and use it with
 * whatever key and token they then have, so binding it to a principal would only cost honest callers another round trip;
 * who may answer is settled by the key that the proof is bound to, and what the proof is for by `htu` or `@authority`.
 */

import { createHmac, hkdfSync, timingSafeEqual } from "node:crypto";
import { type EpochMs, MINUTE_MS, SECOND_MS, toEpochMs } from "../model/units.ts";
import { decodeBase64url } from "./base64url.ts";

/** What a nonce may be used for: one made for the one is worth nothing to the other. */
export type NoncePurpose = "dpop" | "signature";

/** `issuedAt` lets a caller demand an answer to this challenge and not to an earlier one. */
export type NonceJudgement =
  | { readonly kind: "fresh"; readonly issuedAt: EpochMs }
  | { readonly kind: "stale" }
  /** Not made by this fleet under a key that still counts. */
  | { readonly kind: "unknown" };

/** Keys change with every window; the keys of the current and the previous one count. */
export const NONCE_WINDOW_MS = 5 * MINUTE_MS;
/** A nonce is of no use after this, even while its key still counts. */
export const NONCE_LIFETIME_MS = 5 * MINUTE_MS;
/** How far ahead the clock of the sidecar that issued it may be. */
export const NONCE_SKEW_MS = 5 * SECOND_MS;
/** Bytes of chance in each nonce, so that no two challenges share one. */
export const NONCE_RANDOM_BYTES = 8;
/** A shorter secret could be guessed. */
export const NONCE_SECRET_BYTES_MIN = 32;

const VERSION = 1;
const TIME_BYTES = 6;
const MAC_BYTES = 16;
const BODY_BYTES = 1 + TIME_BYTES + NONCE_RANDOM_BYTES;
const NONCE_BYTES = BODY_BYTES + MAC_BYTES;
/** Base64url characters of a nonce; anything else is not read at all. */
export const NONCE_CHARS = Math.ceil((NONCE_BYTES * 4) / 3);
/** The next window's key may be met by a sidecar whose clock is behind. */
const KEYS_KEPT = 3;

export class Nonces {
  private readonly secret: Uint8Array;
  private readonly keys = new Map<number, Buffer>();

  /**
   * @param secret shared by all sidecars that should accept each other's nonces; never used as a key itself
   * @throws {RangeError} when the secret is shorter than 32 bytes: whoever reads settings refuses it with a better message
   */
  constructor(secret: Uint8Array) {
    if (secret.length < NONCE_SECRET_BYTES_MIN) {
      throw new RangeError(`nonce secret must have ${NONCE_SECRET_BYTES_MIN} bytes or more, got ${secret.length}`);
    }
    this.secret = Uint8Array.from(secret);
  }

  /** @param random {@link NONCE_RANDOM_BYTES} bytes of chance */
  issue(purpose: NoncePurpose, now: EpochMs, random: Uint8Array): string {
    if (random.length !== NONCE_RANDOM_BYTES) {
      throw new RangeError(`nonce needs ${NONCE_RANDOM_BYTES} random bytes, got ${random.length}`);
    }
    const nonce = Buffer.alloc(NONCE_BYTES);
    nonce[0] = VERSION;
    nonce.writeUIntBE(Math.floor(now), 1, TIME_BYTES);
    nonce.set(random, 1 + TIME_BYTES);
    nonce.set(this.mac(purpose, nonce.subarray(0, BODY_BYTES), windowOf(now)), BODY_BYTES);
    return nonce.toString("base64url");
  }

  judge(purpose: NoncePurpose, nonce: string, now: EpochMs): NonceJudgement {
    if (nonce.length !== NONCE_CHARS) return { kind: "unknown" };
    const bytes = decodeBase64url(nonce);
    if (bytes === undefined || bytes[0] !== VERSION) return { kind: "unknown" };
    const issuedAt = bytes.readUIntBE(1, TIME_BYTES);
    const window = windowOf(issuedAt);
    if (issuedAt > now + NONCE_SKEW_MS) return { kind: "unknown" };
    if (window < windowOf(now) - 1) return { kind: "stale" };
    const mac = this.mac(purpose, bytes.subarray(0, BODY_BYTES), window);
    if (!timingSafeEqual(mac, bytes.subarray(BODY_BYTES))) return { kind: "unknown" };
    if (now - issuedAt > NONCE_LIFETIME_MS) return { kind: "stale" };
    return { kind: "fresh", issuedAt: toEpochMs(issuedAt) };
  }

  private mac(purpose: NoncePurpose, body: Uint8Array, window: number): Buffer {
    const mac = createHmac("sha256", this.keyOf(window)).update(`${purpose}\n`).update(body).digest();
    return mac.subarray(0, MAC_BYTES);
  }

  private keyOf(window: number): Buffer {
    const known = this.keys.get(window);
    if (known !== undefined) return known;
    const key = Buffer.from(hkdfSync("sha256", this.secret, "", `sallyport nonce ${window}`, 32));
    this.keys.set(window, key);
    if (this.keys.size > KEYS_KEPT) this.keys.delete(Math.min(...this.keys.keys()));
    return key;
  }
}

function windowOf(timeMs: number): number {
  return Math.floor(timeMs / NONCE_WINDOW_MS);
}
