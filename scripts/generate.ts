/** Usage: tsx scripts/generate.ts [--check]   Writes src/gen from proto/; with --check compares instead of writing. */

import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const GENERATED = join(ROOT, "src", "gen");

/** Relative paths of all files that would change; empty when src/gen is fresh. */
export function staleFiles(): readonly string[] {
  const scratch = mkdtempSync(join(tmpdir(), "sallyport-gen-"));
  try {
    generate(scratch);
    const fresh = filesOf(scratch);
    const held = filesOf(GENERATED);
    return [...new Set([...fresh.keys(), ...held.keys()])].filter((path) => fresh.get(path) !== held.get(path)).sort();
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

function generate(out: string): void {
  const template = {
    version: "v2",
    clean: true,
    plugins: [
      {
        local: join(ROOT, "node_modules", ".bin", "protoc-gen-es"),
        out,
        opt: ["target=ts", "import_extension=ts", "erasable_syntax=true"],
      },
    ],
  };
  // The package's launcher needs its install script to have run; the binary beside it does not.
  execFileSync(bufPath(), ["generate", "--template", JSON.stringify(template)], { cwd: ROOT, stdio: "inherit" });
}

function bufPath(): string {
  const platform = `${process.platform}-${process.arch}`;
  return join(
    ROOT,
    "node_modules",
    "@bufbuild",
    `buf-${platform}`,
    "bin",
    process.platform === "win32" ? "buf.exe" : "buf",
  );
}

function filesOf(folder: string): Map<string, string> {
  const entries = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return new Map(
    entries.map((entry) => {
      const path = join(entry.parentPath, entry.name);
      return [path.slice(folder.length + 1), readFileSync(path, "utf8")];
    }),
  );
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (process.argv.includes("--check")) {
    const stale = staleFiles();
    if (stale.length > 0) {
      console.error(`src/gen differs from proto/ in: ${stale.join(", ")}. Run: npx tsx scripts/generate.ts`);
      process.exitCode = 1;
    }
  } else {
    generate(GENERATED);
  }
}
