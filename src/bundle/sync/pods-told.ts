/** Reads what the control plane tells of pods, message by message. */

import { gunzipSync } from "node:zlib";
import type { WorkloadListener } from "./source.ts";
import { readWorkloads } from "./workload-wire.ts";

/** Bytes of one message, uncompressed: some thousand pods. */
const MESSAGE_BYTES_MAX = 16 * 1024 * 1024;
/** Texts of which one copy is kept. */
const TEXTS_MAX = 20_000;

/** One connection's messages of pods. */
export class PodsTold {
  private readonly listener: WorkloadListener;
  /** Replicas and nodes repeat most texts. */
  private readonly texts = new Map<string, string>();
  private readable = true;

  constructor(listener: WorkloadListener) {
    this.listener = listener;
  }

  take(bytes: Uint8Array): void {
    if (!this.readable) return;
    try {
      const { kinds, put, removed, first, last, state } = readWorkloads(
        gunzipSync(bytes, { maxOutputLength: MESSAGE_BYTES_MAX }),
        (text) => this.one(text),
      );
      const workloads = put.map(({ uid, kind, addresses, facts: own, shared }) => {
        const { principals, facts: common } = kinds[kind]!;
        return { uid, principals, addresses, shared, common, own };
      });
      this.listener.changed({ first, last, put: workloads, removed }, state);
    } catch {
      // Does without until the next connection: policy and locks come by the same stream, and matter more.
      this.readable = false;
      this.listener.lost(true);
    }
  }

  heard(silentMs: number, broken: boolean): void {
    if (this.readable) this.listener.heard(silentMs, broken);
  }

  private one(text: string): string {
    const known = this.texts.get(text);
    if (known !== undefined) return known;
    if (this.texts.size >= TEXTS_MAX) this.texts.clear();
    this.texts.set(text, text);
    return text;
  }
}
