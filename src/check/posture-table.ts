/** Posture facts told at run time; bounded, the least recently told is forgotten. */

import type { PostureTable } from "../model/line.ts";
import type { PostureFacts } from "../model/policy.ts";

export class Postures implements PostureTable {
  private readonly facts = new Map<string, PostureFacts>();
  private readonly subjectsMax: number;

  constructor(subjectsMax: number) {
    this.subjectsMax = subjectsMax;
  }

  get size(): number {
    return this.facts.size;
  }

  put(subject: string, facts: PostureFacts): void {
    this.facts.delete(subject);
    this.facts.set(subject, facts);
    if (this.facts.size > this.subjectsMax) {
      const oldest = this.facts.keys().next().value;
      if (oldest !== undefined) this.facts.delete(oldest);
    }
  }

  get(subject: string): PostureFacts | undefined {
    return this.facts.get(subject);
  }

  /** Everybody whom something was told of, least recently told first: a copy. */
  subjects(): readonly string[] {
    return [...this.facts.keys()];
  }
}
