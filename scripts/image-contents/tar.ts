/** Writes the same files as the same bytes: a tar archive without owners, times or order of its own. */

/** A file of the tree that is packed. */
export interface TreeFile {
  /** Relative, with `/`. */
  readonly path: string;
  readonly bytes: Uint8Array;
  readonly executable: boolean;
}

const BLOCK = 512;
const NAME_BYTES_MAX = 100;
const PREFIX_BYTES_MAX = 155;
/** An archive ends in two empty blocks (POSIX.1-1988, ustar). */
const END = new Uint8Array(2 * BLOCK);

/**
 * A ustar archive of files and of the folders they lie in, sorted by path, all of root, modes 0755 and 0644.
 * @param seconds since the Unix epoch, the time of every entry
 * @throws {Error} for a path that ustar cannot hold (255 bytes, broken at a `/`)
 */
export function tarOf(files: readonly TreeFile[], seconds: number): Uint8Array {
  const parts: Uint8Array[] = [];
  const entries = [
    ...foldersOf(files).map((path) => ({ path: `${path}/`, bytes: new Uint8Array(), mode: 0o755, type: "5" })),
    ...files.map(({ path, bytes, executable }) => ({ path, bytes, mode: executable ? 0o755 : 0o644, type: "0" })),
  ].sort((a, b) => (a.path < b.path ? -1 : 1));
  for (const { path, bytes, mode, type } of entries) {
    parts.push(headerOf(path, bytes.length, mode, type, seconds), bytes);
    const rest = bytes.length % BLOCK;
    if (rest > 0) parts.push(new Uint8Array(BLOCK - rest));
  }
  return Buffer.concat([...parts, END]);
}

function foldersOf(files: readonly TreeFile[]): readonly string[] {
  const folders = new Set<string>();
  for (const { path } of files) {
    for (let end = path.indexOf("/"); end > 0; end = path.indexOf("/", end + 1)) folders.add(path.slice(0, end));
  }
  return [...folders];
}

function headerOf(path: string, size: number, mode: number, type: string, seconds: number): Uint8Array {
  const header = Buffer.alloc(BLOCK);
  const { prefix, name } = brokenPath(path);
  const octal = (value: number, at: number, width: number) =>
    header.write(`${value.toString(8).padStart(width - 1, "0")}\0`, at, "latin1");
  header.write(name, 0);
  octal(mode, 100, 8);
  octal(0, 108, 8); // owner and group: root
  octal(0, 116, 8);
  octal(size, 124, 12);
  octal(seconds, 136, 12);
  header.write("        ", 148, "latin1"); // the checksum counts itself as blanks
  header.write(type, 156, "latin1");
  header.write("ustar\x0000", 257, "latin1");
  header.write(prefix, 345);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return header;
}

function brokenPath(path: string): { readonly prefix: string; readonly name: string } {
  if (Buffer.byteLength(path) <= NAME_BYTES_MAX) return { prefix: "", name: path };
  for (let at = path.indexOf("/"); at > 0 && at < path.length - 1; at = path.indexOf("/", at + 1)) {
    const prefix = path.slice(0, at);
    const name = path.slice(at + 1);
    if (Buffer.byteLength(prefix) <= PREFIX_BYTES_MAX && Buffer.byteLength(name) <= NAME_BYTES_MAX)
      return { prefix, name };
  }
  throw new Error(`${path}: expected a path that a ustar archive can hold`);
}
