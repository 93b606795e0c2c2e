import { execFile, spawnSync } from "node:child_process";
import { createPrivateKey, createPublicKey } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import t from "tap";
import { challengingHttp, createGuard } from "../support/challenging-server.ts";
import { skipUnless } from "../support/skip.ts";

const PAGE = fileURLToPath(new URL("../../docs/clients.md", import.meta.url));
const has = (command: string): boolean => spawnSync(command, ["--version"]).error === undefined;
const run = promisify(execFile);

t.test(
  "the page's commands answer a DPoP challenge with openssl and curl",
  skipUnless(has("openssl") && has("curl"), "openssl and curl are not on PATH"),
  async (t) => {
    const folder = mkdtempSync(join(tmpdir(), "sallyport-by-hand-"));
    t.teardown(() => rmSync(folder, { recursive: true }));
    await run("openssl", ["genpkey", "-algorithm", "ed25519", "-out", "key.pem"], { cwd: folder });
    const key = createPublicKey(createPrivateKey(readFileSync(join(folder, "key.pem"))));
    const guard = createGuard("dpop", key.export({ format: "jwk" }));
    const server = await challengingHttp(guard);
    t.teardown(() => server.close());
    const script = /```sh\n([\s\S]*?)```/.exec(readFileSync(PAGE, "utf8"))?.[1];
    const { stdout } = await run("sh", ["-euc", script ?? ""], {
      cwd: folder,
      env: { ...process.env, URL: `${server.origin}/orders/7`, no_proxy: "127.0.0.1" },
    });
    t.equal(stdout, "200\n");
    t.same(guard.outcomes, ["dpop-nonce,www-authenticate", "passed"]);
  },
);
