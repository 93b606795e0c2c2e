/** Writes a decision that was taken down as a policy case: the request, what the log holds of its caller, what was decided. */

import { stringify } from "yaml";
import type { ReadRequest } from "../check/logged.ts";

/** Requests of the caller's past that a case holds; the latest ones. */
export const PAST_MAX = 500;

export interface Decided {
  readonly decisionId: string;
  readonly timeMs: number;
  readonly policy: string;
  readonly score: number;
  readonly decision: string;
  readonly enforced: string;
  readonly mode: string;
  readonly rule: string;
  readonly because: readonly string[];
}

/**
 * @param past requests of the same caller at the same destination before it, in order of time
 * @returns YAML that `sallyport test` reads
 */
export function caseText(of: ReadRequest, decided: Decided, past: readonly ReadRequest[], note: string): string {
  const history = past.slice(-PAST_MAX).map((one) => ({ time: timeText(one.request.facts.time), ...rowOf(one) }));
  const { decision, mode, rule, because } = decided;
  const text = stringify(
    {
      name: `decision ${decided.decisionId}`,
      time: timeText(decided.timeMs),
      ...(history.length === 0 ? {} : { history }),
      given: rowOf(of),
      want: { decision, mode, rule, ...(because.length === 0 ? {} : { because }) },
    },
    { lineWidth: 0 },
  );
  const head = [
    `Score ${decided.score} under policy ${decided.policy}: ${decision}${decision === decided.enforced ? "" : `, carried out: ${decided.enforced}`}.`,
    ...note.split("\n"),
  ];
  return `${head.map((line) => `# ${line}`.trimEnd()).join("\n")}\n${text}`;
}

function rowOf({ request, principal, logged }: ReadRequest): Record<string, unknown> {
  const { facts } = request;
  const { protocol } = facts;
  return {
    principal,
    ...(logged === undefined || logged.credential === "none" ? {} : { credential: logged.credential }),
    ...(facts.sourceAddress === undefined ? {} : { source_address: facts.sourceAddress }),
    ...(facts.userAgent === undefined ? {} : { user_agent: facts.userAgent }),
    ...(facts.tls.ja4 === undefined ? {} : { tls_fingerprint: facts.tls.ja4 }),
    ...(protocol === "http" ? { method: facts.method } : { protocol }),
    host: facts.destination,
    ...(protocol === "tcp" ? {} : { path: facts.path }),
  };
}

function timeText(ms: number): string {
  return new Date(ms).toISOString();
}
