/** What all connections of a server share. */

import type { Refusal, TransportLimits } from "./limits.ts";
import type { UnaryMethod } from "./unary.ts";

/** None of its functions throws. */
export interface ConnectionContext {
  /** By path. */
  readonly methods: ReadonlyMap<string, UnaryMethod>;
  readonly limits: TransportLimits;
  readonly onError: (error: unknown) => void;
  readonly onRefused: (reason: Refusal) => void;
  /** Monotonic milliseconds. */
  readonly now: () => number;
}
