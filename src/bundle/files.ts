/** The files that a policy names: which they are, and how their contents are asked for. */

import type { PolicyFile } from "../gen/sallyport/policy/v1/policy_pb.ts";
import { fileProblem, type Problem } from "./problem.ts";
import type { Source } from "./source.ts";
import { TEXT_BYTES_MAX } from "./tree.ts";

/** What reading a file gave: its bytes, or why there are none. */
export type FileContent =
  | { readonly ok: true; readonly bytes: Uint8Array }
  | { readonly ok: false; readonly fault: string };

/** By the name that the policy gives. */
export type FileContents = ReadonlyMap<string, FileContent>;

export interface NamedFile {
  /** As the policy names it, relative to the policy's own folder. */
  readonly name: string;
  readonly bytesMax: number;
}

const LIST_BYTES_MAX = 64 * 1024 * 1024;
const DATABASE_BYTES_MAX = 512 * 1024 * 1024;
const KEY_SET_BYTES_MAX = 1024 * 1024;

/** Words that stand for no file where a database is named: the table that is shipped, or none at all. */
export const SHIPPED_OR_NONE: readonly string[] = ["builtin", "none"];

/** Every file that a policy names, once. */
export function namedFiles({ spec }: PolicyFile): readonly NamedFile[] {
  const lists = [...(spec?.lists?.addresses ?? []), ...(spec?.lists?.fingerprints ?? [])].map(({ file }) => file);
  const keySets = (spec?.identity?.issuers ?? []).map(({ jwks }) =>
    jwks?.source.case === "file" ? jwks.source.value : "",
  );
  const anchors = (spec?.identity?.trustDomains ?? []).map(({ anchors }) =>
    anchors?.source.case === "file" ? anchors.source.value : "",
  );
  const named = [
    ...lists.map((name) => ({ name, bytesMax: /\.mmdb$/i.test(name) ? DATABASE_BYTES_MAX : LIST_BYTES_MAX })),
    ...[spec?.geo?.asn ?? "", spec?.geo?.country ?? ""]
      .filter((name) => !SHIPPED_OR_NONE.includes(name))
      .map((name) => ({ name, bytesMax: DATABASE_BYTES_MAX })),
    ...(spec?.posture?.files ?? []).map((name) => ({ name, bytesMax: TEXT_BYTES_MAX })),
    ...[...keySets, ...anchors].map((name) => ({ name, bytesMax: KEY_SET_BYTES_MAX })),
  ].filter(({ name }) => name !== "");
  return [...new Map(named.map((file) => [file.name, file])).values()];
}

/** Gives contents to the compiler, and gathers what is wrong with them. */
export class Files {
  readonly problems: Problem[] = [];
  private readonly source: Source;
  private readonly contents: FileContents;

  constructor(source: Source, contents: FileContents) {
    this.source = source;
    this.contents = contents;
  }

  /**
   * The bytes of a file, or `undefined` after reporting why not.
   * @param path where in the policy the file is named
   */
  bytes(path: string, name: string): Uint8Array | undefined {
    const content = this.contents.get(name);
    if (content?.ok === true) return content.bytes;
    this.report(path, "a file that can be read", content?.fault ?? "a file that was not read");
    return undefined;
  }

  /** The text of a file, or `undefined` after reporting why not. */
  text(path: string, name: string): string | undefined {
    const bytes = this.bytes(path, name);
    if (bytes === undefined) return undefined;
    try {
      return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    } catch {
      // Fails closed: bytes that are no text are not guessed at.
      this.fault(name, "UTF-8 text", "other bytes");
      return undefined;
    }
  }

  /** Reports what is wrong at a place in the policy. */
  report(path: string, expected: string, got: string): void {
    this.problems.push(this.source.problem(path, expected, got));
  }

  /** Reports what is wrong with a whole file. */
  fault(name: string, expected: string, got: string): void {
    this.problems.push(fileProblem(name, expected, got));
  }
}
