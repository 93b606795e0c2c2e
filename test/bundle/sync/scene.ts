/** A keeper with time, loader and listeners in the hands of a test. */

import { CurrentPolicy } from "../../../src/bundle/current.ts";
import { defaultPolicy } from "../../../src/bundle/default-policy.ts";
import { loadBytes, loadPolicy } from "../../../src/bundle/load.ts";
import { type KeeperOptions, PolicyKeeper } from "../../../src/bundle/sync/keeper.ts";

import type { OriginLoader } from "../../../src/bundle/sync/source.ts";

export interface KeeperScene {
  readonly keeper: PolicyKeeper;
  readonly current: CurrentPolicy;
  /** What was told, in order. */
  readonly told: string[];
  /** What was counted, in order: `loaded accepted`, `refused CODE`, `failed CODE`, `state written`. */
  readonly counted: string[];
  readonly clock: { nowMs: number; monotonicMs: number };
}

export type SceneOptions = Partial<Omit<KeeperOptions, "events" | "meters" | "now" | "monotonicMs">> & {
  readonly say?: (text: string) => void;
  readonly nowMs?: number;
};

/** The real loading, without the thread. */
const DIRECT: OriginLoader = {
  load: (origin, options) =>
    origin.kind === "path" ? loadPolicy(origin.path, options) : loadBytes(origin.label, origin.bytes, options),
};

export function keeperScene({ say, nowMs = Date.now(), ...options }: SceneOptions = {}): KeeperScene {
  const current = new CurrentPolicy(defaultPolicy());
  const told: string[] = [];
  const counted: string[] = [];
  const clock = { nowMs, monotonicMs: 0 };
  const tell = (text: string): void => {
    told.push(text);
    say?.(text);
  };
  const keeper = new PolicyKeeper({
    loader: DIRECT,
    label: "source",
    trust: undefined,
    state: undefined,
    bytesMax: 64 * 1024 * 1024,
    staleAfterMs: undefined,
    ...options,
    now: () => clock.nowMs,
    monotonicMs: () => clock.monotonicMs,
    events: {
      inForce: ({ policy }) => {
        current.replace(policy);
        tell(`in force ${policy.name}`);
      },
      refused: ({ error, problems }, _from, stays) =>
        tell(`refused ${error.code} ${problems.join("; ")}${stays === "none" ? " (none in force)" : ""}`),
      settled: () => tell("settled"),
      unreachable: (error) => tell(`unreachable ${error.message}`),
      recovered: () => tell("recovered"),
      warned: (warning) => tell(`warned ${warning}`),
      unsaved: (error) => tell(`unsaved ${error.code}`),
      saved: () => tell("saved"),
    },
    meters: {
      loaded: (result) => counted.push(`loaded ${result}`),
      refused: (code) => counted.push(`refused ${code}`),
      failed: (code) => counted.push(`failed ${code}`),
      state: (result) => counted.push(`state ${result}`),
    },
  });
  return { keeper, current, told, counted, clock };
}
