/** Changes to a shipped Envoy configuration that a user might make, too. */

import type { Bootstrap } from "../../scripts/run-envoy.ts";

export type Change = (bootstrap: Bootstrap) => void;

/** One change out of several. */
export function together(...changes: readonly Change[]): Change {
  return (bootstrap) => {
    for (const change of changes) change(bootstrap);
  };
}

/** Long streams report ten times a second, so that a test need not wait. */
export const reportOften: Change = edit(/"access_log_flush_interval":"[^"]+"/g, '"access_log_flush_interval":"0.1s"');

/** Callers may come without a certificate, and with any of the CA's. */
export const letAnybodyIn: Change = together(
  edit(/"require_client_certificate":true/g, '"require_client_certificate":false'),
  edit(/,"match_typed_subject_alt_names":\[[^\]]*\]/g, ""),
);

/** Checks carry the first `bytes` of every body, as another rule of the operator's may want it. */
export function sendBodies(bytes: number): Change {
  const body = `"with_request_body":{"max_request_bytes":${bytes},"allow_partial_message":true,"pack_as_bytes":true}`;
  return edit(/"include_peer_certificate":true/g, `"include_peer_certificate":true,${body}`);
}

function edit(from: RegExp, to: string): Change {
  return (bootstrap) => {
    const text = JSON.stringify(bootstrap.static_resources.listeners);
    const edited = text.replaceAll(from, to);
    if (edited === text) throw new RangeError(`the configuration holds nothing like ${from.source}`);
    bootstrap.static_resources.listeners = JSON.parse(edited);
  };
}
