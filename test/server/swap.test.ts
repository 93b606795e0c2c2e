/** Tests that a policy is changed under load without a failed request, and without a verdict of two policies. */

import { mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { startSidecarProcess } from "../../scripts/demo/sidecar.ts";
import { ADDRESSES, listed, REVISIONS, writePolicies } from "../bench/swap-policies.ts";
import { checkBytes, checkClient } from "../support/check-client.ts";
import { eventually, readiness } from "../support/guarded.ts";

const RANGES = 20_000;
const UNDER_WAY = 8;
const SWAPS = 6;

t.test("every verdict while policies change is of one policy, and every check is answered", async (t) => {
  // Short, for the path of a socket.
  const folder = mkdtempSync(join(tmpdir(), "sallyport-swap-"));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const policies = writePolicies(folder, RANGES);
  const policy = join(folder, "policy.yaml");
  const put = (revision: string): void => {
    writeFileSync(join(folder, "next.yaml"), policies[revision]!);
    renameSync(join(folder, "next.yaml"), policy);
  };
  put("none");
  const sidecar = await startSidecarProcess({ name: "swapped", folder, policy });
  t.teardown(() => sidecar.stop());
  const client = checkClient(sidecar.extAuthz);
  const messages = ADDRESSES.map((address, who) => checkBytes({ principal: `spiffe://td/caller-${who}`, address }));
  const seen = new Set<string>();
  let failed = 0;
  let mixed = 0;
  let number = 0;
  let done = false;
  const lanes = Array.from({ length: UNDER_WAY }, async () => {
    while (!done) {
      const who = number++ % messages.length;
      const answer = await client.send(messages[who]!);
      if (typeof answer === "number") {
        failed++;
        continue;
      }
      const revision = String(answer.dynamicMetadata?.policy_revision);
      seen.add(revision);
      if (listed(revision, who) !== (answer.dynamicMetadata?.decision === "deny")) mixed++;
    }
  });
  for (let swap = 0; swap < SWAPS; swap++) {
    const revision = REVISIONS[swap % REVISIONS.length]!;
    put(revision);
    await eventually(async () => ((await readiness(sidecar)).policy_revision === revision ? true : undefined));
  }
  done = true;
  await Promise.all(lanes);
  client.close();
  t.same({ failed, mixed }, { failed: 0, mixed: 0 });
  t.same([...seen].sort(), [...REVISIONS].sort());
});
