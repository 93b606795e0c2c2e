import t from "tap";
import { startSidecarProcess } from "../../../scripts/demo/sidecar.ts";
import { nodeClient } from "../../support/clients.ts";
import { eventually, metric } from "../../support/guarded.ts";
import { guardedBy, sendMany } from "./guarded-by.ts";
import { transportFlags, transports } from "./served.ts";

for (const transport of await transports()) {
  t.test(`${transport}: a sidecar stopped under load and started again: each request is answered`, async (t) => {
    const guarded = await guardedBy(t, transport);
    const { sidecar } = guarded;
    const client = nodeClient(await guarded.caller("steady"));
    t.teardown(() => client.close());
    t.equal((await client.send({ path: "/orders/1" })).status, 200);
    const underway = sendMany(guarded, 600, 20);
    await eventually(async () => ((await metric(sidecar, "sallyport_checks_total")) > 100 ? true : undefined));
    t.equal(await sidecar.stop(), 0, "it ends by itself");
    const statuses = await underway;
    t.equal((statuses[200] ?? 0) + (statuses[503] ?? 0), 600, JSON.stringify(statuses));
    t.ok((statuses[200] ?? 0) >= 100, "those that were checked before");
    t.equal((await client.send({ path: "/orders/1" })).status, 503, "nobody passes unchecked");
    const again = await startSidecarProcess({
      name: "again",
      folder: guarded.folder,
      policy: guarded.policyPath,
      flags: [
        ...["--ext-authz-address", sidecar.extAuthz, "--streams-address", sidecar.streams],
        ...(await transportFlags(transport)),
      ],
    });
    t.teardown(() => again.stop());
    await eventually(async () => ((await client.send({ path: "/orders/1" })).status === 200 ? true : undefined));
    t.same(await sendMany(guarded, 200, 20), { 200: 200 });
    t.ok((await metric(again, "sallyport_checks_total")) >= 200);
  });
}
