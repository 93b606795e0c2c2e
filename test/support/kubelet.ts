/**
 * Changes a folder as kubelet changes a mounted ConfigMap or Secret (its "atomic writer"): the files are links into
 * `..data`, which is a link to a folder with a time in its name, and is replaced by renaming a new link over it.
 */

import {
  mkdirSync,
  readdirSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";

export interface Mounted {
  readonly folder: string;
  /** What the object holds from now on. */
  update(files: Readonly<Record<string, string | Uint8Array>>): void;
}

/** @param mode of the files, as `defaultMode` gives it */
export function mountedObject(
  folder: string,
  files: Readonly<Record<string, string | Uint8Array>>,
  mode = 0o644,
): Mounted {
  mkdirSync(folder, { recursive: true });
  let count = 0;
  const update = (next: Readonly<Record<string, string | Uint8Array>>): void => {
    const before = currentOf(folder);
    const name = `..2026_03_02_12_00_00.${String(++count).padStart(9, "0")}`;
    mkdirSync(join(folder, name), { mode: 0o755 });
    for (const [file, content] of Object.entries(next)) writeFileSync(join(folder, name, file), content, { mode });
    symlinkSync(name, join(folder, "..data_tmp"));
    renameSync(join(folder, "..data_tmp"), join(folder, "..data"));
    const shown = readdirSync(folder).filter((entry) => !entry.startsWith(".."));
    for (const file of Object.keys(next))
      if (!shown.includes(file)) symlinkSync(join("..data", file), join(folder, file));
    for (const file of shown) if (!(file in next)) unlinkSync(join(folder, file));
    if (before !== undefined) rmSync(join(folder, before), { recursive: true });
  };
  update(files);
  return { folder, update };
}

function currentOf(folder: string): string | undefined {
  return readdirSync(folder).includes("..data") ? readlinkSync(join(folder, "..data")) : undefined;
}
