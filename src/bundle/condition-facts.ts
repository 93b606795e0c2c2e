/** What conditions can ask for: the variables, their parts, and what they are in one request. */

import { type CelInput, celMap } from "@bufbuild/cel";
import type { Asked } from "../model/policy.ts";
import { SECOND_MS } from "../model/units.ts";
import { SIGNALS } from "../signals/catalog.ts";

/** A plain part: a text, cut to a number of characters, or a number. */
export interface Fact {
  readonly type: "string" | "int" | "double";
  /** Of texts: most characters; longer ones are cut. */
  readonly charsMax: number;
  readonly summary: string;
  /** `undefined`: not known. */
  readonly read: (asked: Asked) => string | number | undefined;
}

export type Variable =
  | { readonly kind: "fact"; readonly summary: string; readonly fact: Fact }
  | { readonly kind: "facts"; readonly summary: string; readonly fields: Readonly<Record<string, Fact>> }
  | {
      readonly kind: "map";
      readonly summary: string;
      readonly value: "string" | "double";
      readonly charsMax: number;
      readonly entriesMax: number;
      /** The only keys that there can be; `undefined`: any. */
      readonly keys: readonly string[] | undefined;
      readonly read: (asked: Asked) => Iterable<readonly [string, string | number]>;
    };

function text(charsMax: number, summary: string, read: (asked: Asked) => string | undefined): Fact {
  return { type: "string", charsMax, summary, read };
}

function int(summary: string, read: (asked: Asked) => number | undefined): Fact {
  return { type: "int", charsMax: 0, summary, read };
}

const WEEK = 7;
const DAY_SECONDS = 86_400;
/** 1 January 1970 was a Thursday. */
const FIRST_WEEKDAY = 4;

/** Every variable, in the order of the documentation. What is not known is the empty text or 0; `has()` tells it apart. */
export const VARIABLES: Readonly<Record<string, Variable>> = {
  request: {
    kind: "facts",
    summary: "What is asked for.",
    fields: {
      method: text(32, "HTTP method in upper case; `CONNECT` for raw TCP.", ({ facts }) => facts.method),
      path: text(2048, "Path without query; `/pkg.Service/Method` for gRPC.", ({ facts }) => facts.path),
      route: text(2048, "Learned template of the path, such as `/orders/{id}`.", ({ route }) => route),
      destination: text(256, "Service asked for: host in lower case, without port.", ({ facts }) => facts.destination),
      protocol: text(8, "`http`, `grpc` or `tcp`.", ({ facts }) => facts.protocol),
      bytes: int("Bytes of the request's body, where Envoy tells.", ({ facts }) => facts.requestBytes),
    },
  },
  source: {
    kind: "facts",
    summary: "Where the request comes from.",
    fields: {
      address: text(45, "IPv4 or IPv6 address.", ({ facts }) => facts.sourceAddress),
      port: int("Port.", ({ facts }) => facts.sourcePort),
      asn: int("Number of the autonomous system.", ({ place }) => place().asn),
      country: text(8, "Country, as in `CH`.", ({ place }) => place().country),
    },
  },
  principal: {
    kind: "facts",
    summary: "Who calls.",
    fields: {
      name: text(
        2048,
        "SPIFFE ID, issuer and subject of a token with a bar between, name of the API key, or `anonymous`.",
        ({ identity }) => identity.principal.name,
      ),
      kind: text(16, "`spiffe`, `jwt`, `api_key` or `anonymous`.", ({ identity }) => identity.principal.kind),
      peer_group: text(63, "Its peer group.", ({ peerGroup }) => peerGroup),
      trust_domain: text(255, "SPIFFE trust domain, such as `prod.example`.", trustDomain),
    },
  },
  credential: {
    kind: "facts",
    summary: "What was presented.",
    fields: {
      kind: text(16, "`certificate`, `token`, `api_key` or `none`: the one that carries the session.", credentialKind),
      age_seconds: int("Seconds since the token was issued, or since the certificate became valid.", age),
      expires_in_seconds: int("Seconds until it expires.", expiry),
      issuer: text(2048, "Issuer of the verified token.", (asked) => tokenOf(asked)?.issuer),
      acr: text(256, "Authentication context (`acr`) of the verified token.", (asked) => tokenOf(asked)?.acr),
    },
  },
  tls: {
    kind: "facts",
    summary: "TLS, as Envoy saw it.",
    fields: {
      ja4: text(256, "JA4 fingerprint.", ({ facts }) => facts.tls.ja4),
      ja3: text(256, "JA3 fingerprint.", ({ facts }) => facts.tls.ja3),
      version: text(16, "Version, such as `TLSv1.3`.", ({ facts }) => facts.tls.version),
      sni: text(256, "Server name asked for.", ({ facts }) => facts.tls.sni),
    },
  },
  user_agent: {
    kind: "fact",
    summary: "The `user-agent` header.",
    fact: text(512, "", ({ facts }) => facts.userAgent),
  },
  posture: {
    kind: "map",
    summary: 'Posture facts of the caller by name, such as `posture.node` or `posture["image_digest"]`.',
    value: "string",
    charsMax: 1024,
    entriesMax: 128,
    keys: undefined,
    read: ({ posture }) => Object.entries(posture?.facts ?? {}),
  },
  pod: {
    kind: "facts",
    summary: "The calling pod, as the control plane tells of it.",
    fields: {
      age_seconds: int("Seconds since it started, by `posture.started_at`.", podAge),
    },
  },
  time: {
    kind: "facts",
    summary: "When, in UTC.",
    fields: {
      hour: int("Hour, 0 to 23.", ({ facts }) => Math.floor(facts.time / SECOND_MS / 3_600) % 24),
      minute: int("Minute, 0 to 59.", ({ facts }) => Math.floor(facts.time / SECOND_MS / 60) % 60),
      weekday: int(
        "Day of the week: 0 is Sunday, 6 Saturday.",
        ({ facts }) => (Math.floor(facts.time / SECOND_MS / DAY_SECONDS) + FIRST_WEEKDAY) % WEEK,
      ),
    },
  },
  score: {
    kind: "fact",
    summary: "The score, 0 to 100. Not for rules that change `signals`.",
    fact: { type: "double", charsMax: 0, summary: "", read: ({ scored }) => scored?.score },
  },
  readings: {
    kind: "map",
    summary: 'Bits of evidence by signal, such as `readings["origin.address"]`. Not for rules that change `signals`.',
    value: "double",
    charsMax: 0,
    entriesMax: SIGNALS.length,
    keys: SIGNALS.map(({ name }) => name),
    read: ({ scored }) => scored?.readings ?? [],
  },
};

/** Variables that are known only once the request was scored. */
export const SCORED = ["score", "readings"];

/** The variables of one request, each read when it is first asked for. */
export class ConditionFacts {
  private readonly asked: Asked;
  private readonly values = new Map<string, CelInput>();

  constructor(asked: Asked) {
    this.asked = asked;
  }

  value(name: string): CelInput {
    let value = this.values.get(name);
    if (value === undefined) {
      value = readVariable(VARIABLES[name]!, this.asked);
      this.values.set(name, value);
    }
    return value;
  }
}

function readVariable(variable: Variable, asked: Asked): CelInput {
  switch (variable.kind) {
    case "fact":
      return factValue(variable.fact, asked) ?? nothing(variable.fact.type);
    case "facts":
      return new Parts(variable.fields, asked) as unknown as CelInput;
    case "map": {
      const values = new Map<string, string | number>();
      for (const [name, value] of variable.read(asked)) {
        if (values.size === variable.entriesMax) break;
        values.set(name, typeof value === "string" ? value.slice(0, variable.charsMax) : value);
      }
      return knownFacts(values, nothing(variable.value));
    }
  }
}

function factValue(fact: Fact, asked: Asked): string | number | bigint | undefined {
  const value = fact.read(asked);
  if (value === undefined) return undefined;
  if (typeof value === "string") return value.length > fact.charsMax ? value.slice(0, fact.charsMax) : value;
  return fact.type === "int" ? BigInt(Math.floor(value)) : value;
}

function nothing(type: Fact["type"]): string | number | bigint {
  if (type === "string") return "";
  return type === "int" ? 0n : 0;
}

/**
 * The parts of a variable as a map that reads each when it is asked for. It stands on a map of the library's, which takes
 * it for one of its own; the checker lets nobody ask for more than parts by name.
 */
class Parts {
  private readonly fields: Readonly<Record<string, Fact>>;
  private readonly asked: Asked;

  constructor(fields: Readonly<Record<string, Fact>>, asked: Asked) {
    this.fields = fields;
    this.asked = asked;
  }

  has(name: string): boolean {
    return this.fields[name]?.read(this.asked) !== undefined;
  }

  get(name: string): string | number | bigint | undefined {
    const fact = this.fields[name];
    return fact === undefined ? undefined : (factValue(fact, this.asked) ?? nothing(fact.type));
  }

  static {
    Object.setPrototypeOf(Parts.prototype, celMap(new Map()));
  }
}

/** A map that has what is known, and gives the empty text or 0 for what is not. */
function knownFacts(known: ReadonlyMap<string, string | number>, otherwise: string | number | bigint): CelInput {
  const map = celMap(known as ReadonlyMap<string, CelInput> as never);
  return Object.defineProperties(map, {
    has: { value: (name: unknown) => known.has(name as string) },
    get: { value: (name: unknown) => known.get(name as string) ?? otherwise },
  });
}

function trustDomain({ identity }: Asked): string | undefined {
  if (identity.principal.kind !== "spiffe") return undefined;
  return /^spiffe:\/\/([^/]+)/.exec(identity.principal.name)?.[1];
}

function credentialKind({ identity }: Asked): string {
  const kind = identity.credential.slice(0, Math.max(0, identity.credential.indexOf(":")));
  if (kind === "") return "none";
  return kind === "certificate" || kind === "token" ? kind : "api_key";
}

function tokenOf({ facts }: Asked) {
  const { token } = facts.presented;
  return token.kind === "verified" ? token : undefined;
}

function age(asked: Asked): number | undefined {
  const since = bornAt(asked);
  return since === undefined ? undefined : (asked.facts.time - since) / SECOND_MS;
}

/** A pod that says of itself to have started later than now is as good as new. */
function podAge({ facts, posture }: Asked): number | undefined {
  const startedMs = Date.parse(posture?.facts.started_at ?? "");
  return Number.isNaN(startedMs) ? undefined : Math.max(0, facts.time - startedMs) / SECOND_MS;
}

function bornAt(asked: Asked): number | undefined {
  const kind = credentialKind(asked);
  if (kind === "token") return tokenOf(asked)?.issuedAt;
  return kind === "certificate" ? asked.facts.presented.certificate?.notBefore : undefined;
}

function expiry(asked: Asked): number | undefined {
  const kind = credentialKind(asked);
  const at =
    kind === "token"
      ? tokenOf(asked)?.expiresAt
      : kind === "certificate"
        ? asked.facts.presented.certificate?.notAfter
        : undefined;
  return at === undefined ? undefined : (at - asked.facts.time) / SECOND_MS;
}
