/** The services of a made-up mesh: what each one offers, whom it calls, and how it looks from outside. */

import { type Chance, chance } from "./random.ts";

export interface Service {
  readonly name: string;
  readonly principal: string;
  readonly host: string;
  /** Its calls, by route: method and path with `{id}` for ids. */
  readonly routes: readonly Route[];
  /** Whom it calls, with the few routes it uses there. */
  readonly callees: { readonly service: Service; readonly routes: readonly Route[] }[];
  readonly stack: Stack;
  /** Requests a second at its busiest. */
  readonly peakPerSecond: number;
  /** Hour of its peak, UTC. */
  readonly peakHour: number;
  /** Runs every hour for some minutes, in a fresh pod, instead of all the time. */
  readonly isJob: boolean;
  version: [major: number, minor: number, patch: number];
  pods: Pod[];
}

export interface Route {
  readonly method: string;
  readonly path: string;
  readonly bytes: number;
}

export interface Pod {
  readonly address: string;
  credential: string;
  credentialUntilMs: number;
}

/** A client library: its TLS fingerprint and how its user agent is written. */
export interface Stack {
  readonly ja4: string;
  readonly agent: (name: string, version: string) => string;
}

const NAMES =
  "orders billing catalog search users media email pricing stock shipping reviews ledger reports profile alerts fraud promo tax geo audit".split(
    " ",
  );

export const STACKS: readonly Stack[] = [
  { ja4: "t13d1312h2_f57a46bbacb6_ab7e3b40a677", agent: (name, version) => `${name}/${version} Go-http-client/2.0` },
  { ja4: "t13d5911h1_a33745022dd6_1f22a2ca17c4", agent: (name, version) => `${name}/${version} undici node/20` },
  { ja4: "t13d1812h1_85036bcba153_d41ae481755e", agent: (name, version) => `${name}/${version} python-httpx/0.27` },
];

/** What thieves bring along. */
export const FOREIGN: readonly { readonly ja4: string; readonly agent: string }[] = [
  { ja4: "t13d3112h2_e8f1e7e78f70_b26ce05bbdd6", agent: "curl/8.5.0" },
  { ja4: "t13d1812h1_85036bcba153_d41ae481755e", agent: "python-requests/2.31.0" },
];

/** @param services 4 to 20 */
export function makeServices(services: number, seed: number): Service[] {
  const dice = chance(seed);
  const made: Service[] = NAMES.slice(0, services).map((name, i) => ({
    name,
    principal: `spiffe://mesh.example/ns/shop/sa/${name}`,
    host: `${name}.shop.svc.cluster.local`,
    routes: routesOf(name, dice),
    callees: [],
    stack: dice.pick(STACKS),
    peakPerSecond: 0.005 * 2 ** (dice.next() * 4),
    peakHour: dice.between(9, 20),
    isJob: i % 7 === 6,
    version: [1, dice.between(0, 9), dice.between(0, 9)],
    pods: [],
  }));
  for (const service of made) {
    const others = made.filter((other) => other !== service);
    for (let i = 0; i < dice.between(2, 5); i++) {
      const callee = dice.pick(others);
      if (service.callees.some(({ service: known }) => known === callee)) continue;
      const count = Math.min(callee.routes.length, dice.between(2, 5));
      const routes = Array.from({ length: count }, () => dice.pick(callee.routes));
      service.callees.push({ service: callee, routes: [...new Set(routes)] });
    }
  }
  return made;
}

function routesOf(name: string, dice: Chance): Route[] {
  const route = (method: string, path: string): Route => ({ method, path, bytes: dice.size(700, 1) });
  return [
    route("GET", `/v1/${name}`),
    route("GET", `/v1/${name}/{id}`),
    route("POST", `/v1/${name}`),
    route("PUT", `/v1/${name}/{id}`),
    route("DELETE", `/v1/${name}/{id}`),
    route("GET", `/v1/${name}/search`),
    route("GET", `/v1/${name}/{id}/items`),
    route("GET", `/internal/${name}/health`),
  ];
}

/** An address of the cluster. */
export function podAddress(dice: Chance): string {
  return `10.${dice.pick([42, 56, 112])}.${dice.between(0, 15)}.${dice.between(2, 250)}`;
}

export function newPod(dice: Chance, nowMs: number): Pod {
  return { address: podAddress(dice), credential: `jti-${dice.hex(12)}`, credentialUntilMs: nowMs + 3_600_000 };
}

export function versionText({ version }: Service): string {
  return version.join(".");
}
