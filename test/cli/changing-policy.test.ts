import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import { command } from "../support/command.ts";

const PAGE = fileURLToPath(new URL("../../docs/changing-policy.md", import.meta.url));
const folder = await mkdtemp(join(tmpdir(), "sallyport-changing-policy-"));
t.teardown(() => rm(folder, { recursive: true, force: true }));

t.test("the files and commands of the page on changing a policy work as they stand there", async (t) => {
  const page = await readFile(PAGE, "utf8");
  for (const [, name = "", text = ""] of page.matchAll(/^```yaml\n# (\S+)\n([\s\S]*?)^```$/gm)) {
    await mkdir(dirname(join(folder, name)), { recursive: true });
    await writeFile(join(folder, name), text);
  }
  const rows = join(folder, "rows.jsonl");
  await command(["simulate", "--out", rows, "--days", "2", "--services", "4"]);
  const lines = (await readFile(rows, "utf8")).split("\n").slice(0, 5_000);
  await writeFile(join(folder, "decisions.log"), lines.join("\n"));
  const offline = [...page.matchAll(/^sallyport (check|test|replay|cost) (.*?)(?: {2,}#.*)?$/gm)];
  t.equal(offline.length, 6);
  for (const [line, name = "", rest = ""] of offline) {
    const args = rest
      .split(" ")
      .map((arg) => (/^(?:cases$|.*\.(?:yaml|log|jsonl|xml)$)/.test(arg) ? join(folder, arg) : arg));
    t.match(await command([name, ...args]), { code: 0 }, line);
  }
});
