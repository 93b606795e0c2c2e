/** What Envoy's container does besides running Envoy: two scripts for Bash, which talk HTTP by themselves. */

import { ACTIVE_TARGET, type App, DRAIN_TARGET } from "./bootstrap.ts";
import type { InjectorConfig } from "./config.ts";

/** `ask PORT METHOD TARGET`: the answer as it comes; fails where nobody listens. */
const ASK =
  'ask() { exec 3<>/dev/tcp/127.0.0.1/$1 || return 1; printf \'%s %s HTTP/1.1\\r\\nhost: pod\\r\\nconnection: close\\r\\n\\r\\n\' "$2" "$3" >&3; cat <&3; exec 3>&-; }';

/** Seconds between two looks. */
const PAUSE = "0.2";

/**
 * Before Envoy gets SIGTERM: callers are told to go elsewhere, and Envoy stays for as long as a request is open or the
 * application still listens, which may be waiting on purpose for its Service to forget it.
 * @param secondsMax longest wait
 */
export function drainScript({ envoy }: InjectorConfig, app: App, secondsMax: number): string {
  return [
    ASK,
    `end=$((SECONDS + ${secondsMax}))`,
    `ask ${envoy.adminPort} POST '${DRAIN_TARGET}' >/dev/null 2>&1 || exit 0`,
    "while [ $SECONDS -lt $end ]; do",
    `  if ! (exec 3<>/dev/tcp/127.0.0.1/${app.port}) 2>/dev/null; then`,
    `    ask ${envoy.adminPort} GET '${ACTIVE_TARGET}' 2>/dev/null | grep -q 'downstream_rq_active: [1-9]' || exit 0`,
    "  fi",
    `  sleep ${PAUSE}`,
    "done",
  ].join("\n");
}

/**
 * After a classic Envoy was started, and before the pod's own containers are: Sallyport is ready and Envoy takes calls.
 * @param secondsMax longest wait; the container fails then, and is started again
 */
export function holdScript({ envoy, healthPort }: InjectorConfig, secondsMax: number): string {
  return [
    ASK,
    "ready() { ask $1 GET $2 2>/dev/null | head -n 1 | grep -q ' 200 '; }",
    `end=$((SECONDS + ${secondsMax}))`,
    "while [ $SECONDS -lt $end ]; do",
    `  if ready ${healthPort} /readyz && ready ${envoy.healthPort} /ready; then exit 0; fi`,
    `  sleep ${PAUSE}`,
    "done",
    `echo 'not ready within ${secondsMax} s'`,
    "exit 1",
  ].join("\n");
}
