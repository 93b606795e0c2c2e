/** Who calls the control plane, and what they may do. */

import { createHash, timingSafeEqual } from "node:crypto";
import type { TLSSocket } from "node:tls";
import { compileGlob } from "../bundle/globs.ts";
import { type Grant, Role, type Token } from "../gen/sallyport/control/v1/config_pb.ts";
import { type Labels, matches } from "./channels.ts";

/** What one caller may do. */
export interface Rights {
  readonly roles: ReadonlySet<Role>;
  /** Channels that the caller is held to; `undefined`: all. */
  readonly channels: ReadonlySet<string> | undefined;
  /** Labels that a sidecar must have. */
  readonly labels: Labels;
}

export interface Caller {
  /** For the audit log: a token's name or a SPIFFE ID. */
  readonly name: string;
  /** Address that it calls from. */
  readonly from: string;
  /** Each is enough by itself. */
  readonly rights: readonly Rights[];
  /** When its certificate or token expires; `undefined`: it came with none that does. */
  readonly untilMs: number | undefined;
}

export type Authenticated =
  | { readonly ok: true; readonly caller: Caller }
  | { readonly ok: false; readonly why: string };

/** The evidence that a request brings. */
export interface Evidence {
  readonly authorization: string | undefined;
  readonly from: string;
  /** `undefined`: no certificate was presented. */
  readonly certificate: PeerCertificate | undefined;
  /** The request came over loopback, to a server that listens on loopback only, and not from another site's page. */
  readonly local: boolean;
}

export interface PeerCertificate {
  /** Whether an authority that we trust issued it and its time is now; otherwise what is wrong. */
  readonly verified: true | string;
  readonly spiffeIds: readonly string[];
  readonly untilMs: number;
}

/** Who shows a service account's token; `undefined`: nobody does, or none are accepted. */
export type FindAccount = (
  authorization: string,
) =>
  | { readonly ok: true; readonly spiffeId: string; readonly untilMs: number }
  | { readonly ok: false; readonly why: string }
  | undefined;

export class Access {
  private readonly tokens: readonly { readonly name: string; readonly sha256: Buffer; readonly rights: Rights }[];
  private readonly grants: readonly { readonly pattern: RegExp; readonly rights: Rights }[];

  private readonly accountOf: FindAccount;

  /** @param accountOf knows service accounts by their tokens; their SPIFFE IDs have the rights of `grants` */
  constructor(tokens: readonly Token[], grants: readonly Grant[], accountOf: FindAccount = () => undefined) {
    this.accountOf = accountOf;
    this.tokens = tokens.map((token) => ({
      name: token.name,
      sha256: Buffer.from(token.sha256, "hex"),
      rights: rightsOf(token),
    }));
    this.grants = grants.map((grant) => ({ pattern: compileGlob(grant.spiffe), rights: rightsOf(grant) }));
  }

  /** A certificate that cannot be believed is refused even beside a good token: something is wrong with that caller. */
  authenticate({ authorization, from, certificate, local }: Evidence, nowMs: number): Authenticated {
    if (certificate !== undefined && certificate.verified !== true) {
      return { ok: false, why: `the client certificate is not accepted: ${certificate.verified}` };
    }
    if (certificate !== undefined && certificate.untilMs <= nowMs) {
      return { ok: false, why: "the client certificate has expired" };
    }
    if (authorization !== undefined) {
      const token = this.tokenOf(authorization);
      if (token === undefined) return this.accountBy(authorization, from, certificate?.untilMs);
      return known(`token ${token.name}`, from, [token.rights], certificate?.untilMs);
    }
    if (certificate !== undefined) {
      const [spiffeId, ...more] = certificate.spiffeIds;
      // An X509-SVID has exactly one URI SAN (SPIFFE X509-SVID, section 2).
      if (spiffeId === undefined || more.length > 0) {
        return { ok: false, why: "expected a client certificate with one SPIFFE ID" };
      }
      return known(spiffeId, from, this.rightsOf(spiffeId), certificate.untilMs);
    }
    if (local)
      return known("loopback", from, [{ roles: new Set([Role.VIEWER]), channels: undefined, labels: {} }], undefined);
    return { ok: false, why: "expected a bearer token or a client certificate" };
  }

  private accountBy(authorization: string, from: string, certificateUntilMs: number | undefined): Authenticated {
    const account = this.accountOf(authorization);
    if (account === undefined) return { ok: false, why: "the bearer token is not known" };
    if (!account.ok) return account;
    const { spiffeId, untilMs } = account;
    return known(spiffeId, from, this.rightsOf(spiffeId), Math.min(untilMs, certificateUntilMs ?? untilMs));
  }

  private rightsOf(spiffeId: string): readonly Rights[] {
    return this.grants.filter(({ pattern }) => pattern.test(spiffeId)).map((grant) => grant.rights);
  }

  private tokenOf(authorization: string) {
    const given = /^bearer +(\S{1,512})$/i.exec(authorization)?.[1];
    if (given === undefined) return undefined;
    const sha256 = createHash("sha256").update(given).digest();
    return this.tokens.find((token) => timingSafeEqual(token.sha256, sha256));
  }
}

/** Whether the caller may act in a role, on a channel where one is concerned. */
export function may({ rights }: Caller, role: Role, channel?: string): boolean {
  return rights.some(
    ({ roles, channels }) =>
      (roles.has(role) || (role === Role.VIEWER && roles.has(Role.OPERATOR))) &&
      (channel === undefined || channels === undefined || channels.has(channel)),
  );
}

/** Whether the caller may act in a role on every channel. */
export function mayOnAll({ rights }: Caller, role: Role): boolean {
  return rights.some(({ roles, channels }) => roles.has(role) && channels === undefined);
}

/** Whether the caller may watch or report as a sidecar with these labels, which put it on this channel. */
export function mayBe({ rights }: Caller, labels: Labels, channel: string | undefined): boolean {
  return rights.some(
    (one) =>
      one.roles.has(Role.SIDECAR) &&
      matches({ $typeName: "sallyport.control.v1.Selector", labels: { ...one.labels } }, labels) &&
      (one.channels === undefined || (channel !== undefined && one.channels.has(channel))),
  );
}

/** What TLS found out about the peer. */
export function certificateOf(socket: TLSSocket): PeerCertificate | undefined {
  const found = socket.getPeerCertificate?.(false);
  if (found === undefined || found === null || Object.keys(found).length === 0) return undefined;
  return {
    verified: socket.authorized || String(socket.authorizationError ?? "not verified"),
    spiffeIds: (found.subjectaltname ?? "")
      .split(", ")
      .flatMap((name) => (name.startsWith("URI:") ? [name.slice("URI:".length)] : [])),
    untilMs: Date.parse(found.valid_to),
  };
}

function known(name: string, from: string, rights: readonly Rights[], untilMs: number | undefined): Authenticated {
  return { ok: true, caller: { name, from, rights, untilMs } };
}

function rightsOf({ roles, channels, labels }: Pick<Grant, "roles" | "channels" | "labels">): Rights {
  return { roles: new Set(roles), channels: channels.length === 0 ? undefined : new Set(channels), labels };
}
