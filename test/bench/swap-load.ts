/** A process that sends checks at a steady rate, and looks that each answer is of one policy; started by `swap.ts`. */

import { checkBytes, checkClient } from "../support/check-client.ts";
import { ADDRESSES, listed } from "./swap-policies.ts";

export interface SwapOrder {
  readonly address: string;
  readonly seconds: number;
  readonly perSecond: number;
}

export interface SwapResult {
  readonly sent: number;
  readonly failed: number;
  /** Answers whose revision and decision are not of the same policy. */
  readonly mixed: number;
  readonly revisions: readonly string[];
  /** From the time at which a check was due to its answer, milliseconds. */
  readonly latenciesMs: readonly number[];
}

process.on("message", (order: SwapOrder | string) => {
  if (typeof order === "string") return;
  void run(order).then((result) => process.send?.(result));
});
process.channel?.ref();
console.log("ready");

async function run({ address, seconds, perSecond }: SwapOrder): Promise<SwapResult> {
  const client = checkClient(address);
  const messages = ADDRESSES.map((source, who) =>
    checkBytes({ principal: `spiffe://td/caller-${who}`, address: source }),
  );
  const latenciesMs: number[] = [];
  const revisions = new Set<string>();
  let failed = 0;
  let mixed = 0;
  const under = new Set<Promise<void>>();
  const begin = performance.now();
  const count = Math.round(seconds * perSecond);
  for (let number = 0; number < count; number++) {
    const due = begin + (number * 1_000) / perSecond;
    const wait = due - performance.now();
    if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
    const who = number % messages.length;
    const call = client.send(messages[who]!).then((answer) => {
      latenciesMs.push(performance.now() - due);
      if (typeof answer === "number") {
        failed++;
        return;
      }
      const facts = answer.dynamicMetadata ?? {};
      const revision = String(facts.policy_revision);
      revisions.add(revision);
      if (listed(revision, who) !== (facts.decision === "deny")) mixed++;
    });
    under.add(call);
    void call.finally(() => under.delete(call));
  }
  await Promise.all(under);
  client.close();
  return { sent: count, failed, mixed, revisions: [...revisions], latenciesMs };
}
