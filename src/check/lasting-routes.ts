/** Remembers which routes hold their callers for long: a gRPC method says nowhere that it streams. */

const ROUTES_MAX = 1_024;

/** A request that took this long was no ordinary one. */
const LASTS_MS = 10_000;

export class LastingRoutes {
  private readonly routes = new Set<string>();

  /** Takes what became of a request: one that is still open when Envoy first reports, or took long, is known to last. */
  note(destination: string, route: string, stage: "periodic" | "end", durationMs: number | undefined): void {
    if (stage === "end" && (durationMs ?? 0) < LASTS_MS) return;
    const key = `${destination} ${route}`;
    this.routes.delete(key);
    this.routes.add(key);
    if (this.routes.size <= ROUTES_MAX) return;
    const oldest = this.routes.values().next().value;
    if (oldest !== undefined) this.routes.delete(oldest);
  }

  has(destination: string, route: string): boolean {
    return this.routes.size > 0 && this.routes.has(`${destination} ${route}`);
  }
}
