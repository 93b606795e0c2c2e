import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import type { SidecarProcess } from "../../../scripts/demo/sidecar.ts";
import { checkBytes } from "../../support/check-client.ts";
import { eventually, metric } from "../../support/guarded.ts";
import { CHECK_PATH, runTool, serve, toolOrSkip, transports } from "./served.ts";

const CALLS = 20_000;
const PROTO = fileURLToPath(new URL("../../../proto", import.meta.url));

const folder = await mkdtemp(join(tmpdir(), "sallyport-load-"));
t.teardown(() => rm(folder, { recursive: true, force: true }));
const message = checkBytes({ headers: { "user-agent": "load/1.0", accept: "*/*" } });
const messageFile = join(folder, "message");
await writeFile(messageFile, message);
/** With gRPC's frame around it: uncompressed, length. */
const framedFile = join(folder, "framed");
const prefix = Buffer.alloc(5);
prefix.writeUInt32BE(message.length, 1);
await writeFile(framedFile, Buffer.concat([prefix, message]));

const ghz = await toolOrSkip("ghz");
const h2load = await toolOrSkip("h2load");

for (const transport of await transports()) {
  t.test(`${transport}: ghz's calls over five connections are all answered OK`, ghz.options, async (t) => {
    const sidecar = await serve(t, transport);
    const { code, out, err } = await runTool(ghz.found!, [
      ...["--insecure", "--import-paths", PROTO, "--proto", "envoy/service/auth/v3/external_auth.proto"],
      ...["--call", "envoy.service.auth.v3.Authorization.Check", "--binary-file", messageFile, "--format", "json"],
      ...["--total", String(CALLS), "--concurrency", "50", "--connections", "5", sidecar.extAuthz],
    ]);
    t.equal(code, 0, err);
    const { statusCodeDistribution } = JSON.parse(out) as { statusCodeDistribution: Record<string, number> };
    t.same(statusCodeDistribution, { OK: CALLS });
    t.equal(await checksOf(sidecar, CALLS), CALLS, "each call is one check");
  });

  const settings: readonly { readonly name: string; readonly flags: readonly string[] }[] = [
    { name: "as they are", flags: [] },
    { name: "with windows of 1 KiB", flags: ["--window-bits", "10", "--connection-window-bits", "16"] },
    { name: "without a dynamic table", flags: ["--header-table-size", "0", "--encoder-header-table-size", "0"] },
    { name: "with a table of 100 bytes", flags: ["--header-table-size", "100", "--encoder-header-table-size", "100"] },
  ];
  for (const [i, { name, flags }] of settings.entries()) {
    t.test(`${transport}: h2load's posts, ${name}, all succeed`, h2load.options, async (t) => {
      const sidecar = await serve(t, transport);
      const calls = i === 0 ? CALLS : CALLS / 10;
      const { code, out, err } = await runTool(h2load.found!, [
        ...["--requests", String(calls), "--clients", "4", "--max-concurrent-streams", "100", "--data", framedFile],
        ...["--header", "content-type: application/grpc", "--header", "te: trailers", ...flags],
        `http://${sidecar.extAuthz}${CHECK_PATH}`,
      ]);
      t.equal(code, 0, err);
      t.match(out, `${calls} done, ${calls} succeeded, 0 failed, 0 errored, 0 timeout`);
      t.match(out, `status codes: ${calls} 2xx, 0 3xx, 0 4xx, 0 5xx`);
      t.equal(await checksOf(sidecar, calls), calls, "each post is one check");
    });
  }
}

/** Checks counted, which follows their answers: told once there are as many as expected. */
function checksOf(sidecar: SidecarProcess, expected: number): Promise<number> {
  return eventually(async () => {
    const checks = await metric(sidecar, "sallyport_checks_total");
    return checks >= expected ? checks : undefined;
  });
}
