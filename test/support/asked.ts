/** What a condition is asked of, for tests. */

import { identify } from "../../src/identity/identify.ts";
import type { Asked } from "../../src/model/policy.ts";
import { POLICY, type RequestOptions, request } from "./requests.ts";

export function asked(options: RequestOptions = {}, more: Partial<Asked> = {}): Asked {
  const facts = request(options);
  return {
    facts,
    identity: identify(facts.presented, POLICY.identity),
    route: facts.path,
    peerGroup: undefined,
    posture: undefined,
    place: () => ({ asn: undefined, country: undefined }),
    scored: undefined,
    ...more,
  };
}
