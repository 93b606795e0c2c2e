/** A folder that changes as kubelets change a mounted Secret or ConfigMap: all files at once, by renaming a link. */

import { mkdir, mkdtemp, rename, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Test } from "tap";

export interface Mount {
  readonly folder: string;
  path(name: string): string;
  /** Puts these files in the place of those before, in one step. */
  swap(files: Readonly<Record<string, string>>): Promise<void>;
}

export async function mount(t: Test, files: Readonly<Record<string, string>>): Promise<Mount> {
  const folder = await mkdtemp(join(tmpdir(), "sallyport-mount-"));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  let generation = 0;
  let before: string | undefined;
  const swap: Mount["swap"] = async (next) => {
    const name = `..generation_${++generation}`;
    await mkdir(join(folder, name));
    for (const [file, text] of Object.entries(next)) await writeFile(join(folder, name, file), text);
    await symlink(name, join(folder, "..data_tmp"));
    await rename(join(folder, "..data_tmp"), join(folder, "..data"));
    if (before !== undefined) await rm(join(folder, before), { recursive: true });
    before = name;
  };
  await swap(files);
  for (const file of Object.keys(files)) await symlink(join("..data", file), join(folder, file));
  return { folder, path: (name) => join(folder, name), swap };
}
