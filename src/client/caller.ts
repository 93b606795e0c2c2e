/** What a caller knows and does about challenges, whatever carries the request: nonces, tokens, proofs, signatures. */

import { randomUUID } from "node:crypto";
import { parseAcceptSignature, type SignatureRequest } from "../challenge/accept-signature.ts";
import { contentDigest } from "../challenge/content-digest.ts";
import { tokenHash } from "../challenge/dpop.ts";
import { type SignedRequest, signatureBase } from "../challenge/signature-base.ts";
import {
  type BareItem,
  bytesItem,
  type InnerList,
  serialiseDictionary,
  serialiseItem,
} from "../challenge/structured-fields.ts";
import { parseAuthenticate } from "../challenge/www-authenticate.ts";
import { type CallerKey, type NamedSigner, namedSigner } from "./keys.ts";

/** What is asked of the application when a token is needed. */
export interface TokenWanted {
  /** True after a challenge: one issued from now on, not one that was kept. */
  readonly fresh: boolean;
  /** Any of these authentication classes; empty: no matter. */
  readonly acrValues: readonly string[];
  /** Most seconds since the authentication; `undefined`: no matter. */
  readonly maxAgeSeconds: number | undefined;
}

export interface CallerOptions {
  /** The key that the token, or the principal at the callee, is bound to. Without one, only step-up is answered. */
  readonly key?: CallerKey;
  /** Names the key in signatures; default: its thumbprint. */
  readonly keyId?: string;
  /** Called before every request: keep tokens yourself. `undefined` sends none. */
  readonly getToken?: (wanted: TokenWanted) => string | undefined | Promise<string | undefined>;
  /** `DPoP` (default with a key): the token is bound to the key, and each request carries a proof. */
  readonly tokenType?: "DPoP" | "Bearer";
  /** Milliseconds since the epoch; for tests. */
  readonly now?: () => number;
}

/** One request as its proofs see it. */
export interface Call {
  readonly method: string;
  readonly url: URL;
  /** By lower-case name, without what is added here. */
  readonly headers: ReadonlyMap<string, readonly string[]>;
  /** The whole body; `undefined` where it cannot be known beforehand. */
  readonly body: () => Promise<Uint8Array | undefined>;
}

/** Headers to set on a request, by lower-case name. */
export type AddedHeaders = Readonly<Record<string, string>>;

/** A response's header, all values joined by commas; `undefined` when there is none. */
export type ReadHeader = (name: string) => string | undefined;

type Kind = "dpop" | "signature" | "step_up";

/** Answers given to one request: a challenge and, if it came to that, one of another kind. */
export const ANSWERS_MAX = 2;
/** Origins whose nonces are remembered; the least recently heard of goes. */
const NONCES_MAX = 1_000;
const NONCE_CHARS_MAX = 512;
/** Errors that another token mends. */
const TOKEN_ERRORS = ["insufficient_user_authentication", "invalid_token"];
const NO_DEMAND: TokenWanted = { fresh: false, acrValues: [], maxAgeSeconds: undefined };

export class Caller {
  private readonly options: CallerOptions;
  private readonly nonces = new Map<string, string>();
  private signer: Promise<NamedSigner> | undefined;

  constructor(options: CallerOptions) {
    this.options = options;
  }

  /** Begins one request; what it returns lives as long as that request. */
  begin(call: Call): Exchange {
    return new Exchange(this, call);
  }

  /** RFC 9449, section 8.2: every response may bring the next nonce. */
  learn(origin: string, read: ReadHeader): void {
    const nonce = read("dpop-nonce");
    if (nonce === undefined || nonce === "" || nonce.length > NONCE_CHARS_MAX || /[^\x21-\x7e]/.test(nonce)) return;
    this.nonces.delete(origin);
    this.nonces.set(origin, nonce);
    if (this.nonces.size <= NONCES_MAX) return;
    const oldest = this.nonces.keys().next().value;
    if (oldest !== undefined) this.nonces.delete(oldest);
  }

  nonceFor(origin: string): string | undefined {
    return this.nonces.get(origin);
  }

  token(wanted: TokenWanted): string | undefined | Promise<string | undefined> {
    return this.options.getToken?.(wanted);
  }

  get canStepUp(): boolean {
    return this.options.getToken !== undefined;
  }

  get alwaysProves(): boolean {
    return this.options.key !== undefined && this.options.tokenType !== "Bearer";
  }

  /** @throws {TypeError} when the application's key can make no proofs */
  async key(): Promise<NamedSigner | undefined> {
    if (this.options.key === undefined) return undefined;
    this.signer ??= namedSigner(this.options.key);
    return this.signer;
  }

  keyId(signer: NamedSigner): string {
    return this.options.keyId ?? signer.thumbprint;
  }

  /** Whole seconds. */
  seconds(): number {
    return Math.floor((this.options.now ?? Date.now)() / 1_000);
  }
}

/** One request and its answers to challenges; never more than {@link ANSWERS_MAX}, and each kind once. */
export class Exchange {
  private readonly caller: Caller;
  private readonly call: Call;
  private readonly answered = new Set<Kind>();
  private token: string | undefined;
  private proves: boolean;
  private signature: SignatureRequest | undefined;

  constructor(caller: Caller, call: Call) {
    this.caller = caller;
    this.call = call;
    this.proves = caller.alwaysProves;
  }

  /** What the first request carries: the token, and a proof where the token is bound. */
  async first(): Promise<AddedHeaders> {
    this.token = await this.caller.token(NO_DEMAND);
    return this.headers();
  }

  /**
   * What another try must carry, or `undefined` when the response asks for nothing that can be answered (any more).
   * @param read headers of a 401 or of an UNAUTHENTICATED status
   */
  async answer(read: ReadHeader): Promise<AddedHeaders | undefined> {
    if (this.answered.size >= ANSWERS_MAX) return undefined;
    const challenges = parseAuthenticate(read("www-authenticate") ?? "");
    const errors = challenges.map(({ parameters }) => parameters.get("error"));
    const signer = await this.caller.key();
    const before = this.answered.size;
    this.signature = undefined;
    if (signer !== undefined) {
      const wantsNonce = challenges.some(
        ({ scheme }, index) => scheme === "dpop" && errors[index] === "use_dpop_nonce",
      );
      if (wantsNonce && this.caller.nonceFor(this.call.url.origin) !== undefined && !this.answered.has("dpop")) {
        this.proves = true;
        this.answered.add("dpop");
      }
      this.signature = this.signable(signer, parseAcceptSignature(read("accept-signature") ?? ""));
      if (this.signature !== undefined) this.answered.add("signature");
    }
    if (this.answered.size > before) return this.headers();
    // RFC 6750, section 3.1: another token may be tried where this one is no good, for instance as it is not bound.
    const demand = challenges[errors.findIndex((error) => TOKEN_ERRORS.includes(error ?? ""))];
    if (demand === undefined || !this.caller.canStepUp || this.answered.has("step_up")) return undefined;
    this.answered.add("step_up");
    const token = await this.caller.token({
      fresh: true,
      acrValues: (demand.parameters.get("acr_values") ?? "").split(" ").filter((value) => value !== ""),
      maxAgeSeconds: secondsOf(demand.parameters.get("max_age")),
    });
    // The token that was just refused would be refused again.
    if (token === undefined || token === this.token) return undefined;
    this.token = token;
    return this.headers();
  }

  private signable(signer: NamedSigner, requests: readonly SignatureRequest[]): SignatureRequest | undefined {
    if (this.answered.has("signature") || signer.signatureAlgorithm === undefined) return undefined;
    const names = [undefined, this.caller.keyId(signer), signer.thumbprint];
    return requests.find(
      ({ keyId, algorithm }) =>
        names.includes(keyId) && (algorithm === undefined || algorithm === signer.signatureAlgorithm),
    );
  }

  private async headers(): Promise<AddedHeaders> {
    const signer = await this.caller.key();
    const added: Record<string, string> = {};
    if (this.token !== undefined) {
      added.authorization = `${this.caller.alwaysProves ? "DPoP" : "Bearer"} ${this.token}`;
    }
    if (signer !== undefined && this.proves) added.dpop = await this.proof(signer);
    if (signer !== undefined && this.signature !== undefined) await this.sign(signer, this.signature, added);
    return added;
  }

  /** RFC 9449, section 4.2. */
  private async proof(signer: NamedSigner): Promise<string> {
    const { method, url } = this.call;
    const nonce = this.caller.nonceFor(url.origin);
    const header = { typ: "dpop+jwt", alg: signer.algorithm, jwk: signer.publicJwk };
    const claims = {
      jti: randomUUID(),
      htm: method,
      htu: `${url.origin}${url.pathname}`,
      iat: this.caller.seconds(),
      ...(this.token === undefined ? {} : { ath: tokenHash(this.token) }),
      ...(nonce === undefined ? {} : { nonce }),
    };
    const signed = [header, claims].map((part) => Buffer.from(JSON.stringify(part)).toString("base64url")).join(".");
    const signature = await signer.signJws(Buffer.from(signed));
    return `${signed}.${Buffer.from(signature).toString("base64url")}`;
  }

  /** RFC 9421, section 3.1, over what was asked for; adds nothing when a covered component cannot be had. */
  private async sign(signer: NamedSigner, wanted: SignatureRequest, added: Record<string, string>): Promise<void> {
    const values = (name: string): readonly string[] =>
      added[name] === undefined ? (this.call.headers.get(name) ?? []) : [added[name]];
    const names = wanted.components.map(serialiseItem);
    if (names.some((name) => name.startsWith('"content-digest"')) && values("content-digest").length === 0) {
      const body = await this.call.body();
      if (body === undefined) return;
      added["content-digest"] = contentDigest(body);
    }
    const { method, url } = this.call;
    const request: SignedRequest = {
      method,
      scheme: url.protocol.slice(0, -1),
      authority: url.host,
      target: `${url.pathname}${url.search}`,
      values,
    };
    const covered: InnerList = {
      kind: "inner_list",
      items: wanted.components,
      parameters: this.parameters(signer, wanted),
    };
    const base = signatureBase(request, covered);
    if (!base.ok) return;
    const signature = await signer.signMessage(Buffer.from(base.base));
    const input = serialiseDictionary(new Map([[wanted.label, covered]]));
    const value = serialiseDictionary(new Map([[wanted.label, bytesItem(signature)]]));
    added["signature-input"] = [...values("signature-input"), input].join(", ");
    added.signature = [...values("signature"), value].join(", ");
  }

  private parameters(signer: NamedSigner, wanted: SignatureRequest): ReadonlyMap<string, BareItem> {
    const created = this.caller.seconds();
    const text = (name: string, value: string | undefined): (readonly [string, BareItem])[] =>
      value === undefined ? [] : [[name, { kind: "string", value }]];
    return new Map<string, BareItem>([
      ["created", { kind: "integer", value: created }],
      ...(wanted.expires ? [["expires", { kind: "integer", value: created + 60 }] as const] : []),
      ...text("nonce", wanted.nonce),
      ...text("alg", signer.signatureAlgorithm === "rsa-v1_5-sha256" ? signer.signatureAlgorithm : undefined),
      ...text("keyid", this.caller.keyId(signer)),
      ...text("tag", wanted.tag),
    ]);
  }
}

function secondsOf(text: string | undefined): number | undefined {
  return text !== undefined && /^\d{1,9}$/.test(text) ? Number(text) : undefined;
}
