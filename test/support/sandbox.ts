/**
 * Runs an image's own command line as a container engine would, without one: in a root of its own that holds Node, what
 * Node is linked with and the image's files, read-only, as process 1 of its own, as user 65532, without capabilities.
 * Linux and root only; what is mounted goes with the process.
 */

import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { constants, copyFileSync, linkSync, mkdirSync, readFileSync, realpathSync } from "node:fs";
import { chmod, chown, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { TreeFile } from "../../scripts/image-contents/tar.ts";
import { writeTree } from "../../scripts/image-contents.ts";

/** Whether this machine lets us. */
export function canSandbox(): boolean {
  return process.getuid?.() === 0 && spawnSync("unshare", ["--mount", "--pid", "--fork", "true"]).status === 0;
}

export interface Sandbox {
  /** The root as seen from outside. */
  readonly root: string;
  start(command: readonly string[], environment?: Readonly<Record<string, string>>): ChildProcess;
  /** Output of a command that ends by itself with status 0. */
  output(command: readonly string[]): string;
  /** Number of the process that is 1 inside. */
  innerPid(child: ChildProcess): number;
  remove(): Promise<void>;
}

const USER = 65_532;
const OUTPUT_MS_MAX = 30_000;

/** @param writable folders, whole paths inside, that belong to the user; everything else is read-only */
export async function makeSandbox(files: readonly TreeFile[], writable: readonly string[]): Promise<Sandbox> {
  const root = await mkdtemp(join(tmpdir(), "sallyport-root-"));
  await chmod(root, 0o755);
  const node = realpathSync(process.execPath);
  place(node, join(root, "nodejs/bin/node"));
  for (const [library] of execFileSync("ldd", [node], { encoding: "utf8" }).matchAll(/\/\S+(?= \()/g)) {
    place(realpathSync(library), join(root, library));
  }
  for (const folder of ["proc", "dev"]) mkdirSync(join(root, folder));
  writeTree(files, join(root, "app"), 0);
  for (const folder of writable) {
    mkdirSync(join(root, folder), { recursive: true });
    await chown(join(root, folder), USER, USER);
    await chmod(join(root, folder), 0o755);
  }
  const words = (command: readonly string[]) => [
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "sh",
    "-euc",
    SCRIPT,
    root,
    writable.join(" "),
    ...command,
  ];
  return {
    root,
    start: (command, environment = {}) =>
      spawn("env", ["--unset=NODE_OPTIONS", "unshare", ...words(command)], {
        env: { ...INSIDE, ...environment },
        stdio: "pipe",
      }),
    output: (command) =>
      execFileSync("env", ["--unset=NODE_OPTIONS", "unshare", ...words(command)], {
        env: INSIDE,
        encoding: "utf8",
        timeout: OUTPUT_MS_MAX,
      }),
    // `env` becomes unshare, whose only child becomes the program.
    innerPid: ({ pid }) => Number(readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim()),
    remove: () => rm(root, { recursive: true, force: true }),
  };
}

const INSIDE = { PATH: "/usr/bin:/bin:/usr/sbin:/sbin", NODE_ENV: "production" };

/** $0: the root, $1: its writable folders, then the command. */
const SCRIPT = `
  folders=$1; shift
  mount --make-rprivate /
  mount --bind "$0" "$0"
  for folder in $folders; do mount --bind "$0$folder" "$0$folder"; done
  mount -t proc proc "$0/proc"
  mount -t tmpfs -o mode=0755,size=64k tmpfs "$0/dev"
  for device in null urandom; do : > "$0/dev/$device"; mount --bind "/dev/$device" "$0/dev/$device"; done
  mount -o remount,bind,ro "$0"
  cd "$0"
  exec setpriv --no-new-privs --inh-caps=-all chroot --userspec=${USER}:${USER} --groups= "$0" "$@"
`;

function place(from: string, to: string): void {
  mkdirSync(dirname(to), { recursive: true });
  try {
    linkSync(from, to);
  } catch {
    copyFileSync(from, to, constants.COPYFILE_FICLONE); // another file system
  }
}
