/** Opens MMDB databases that tell where addresses are. */

import { Reader, type Response } from "mmdb-lib";
import { asnOf, countryOf } from "./geo.ts";
import { probe } from "./mmdb-probe.ts";

export type DatabaseKind = "asn" | "country";

/** An opened database, whose sampled records hold what its kind promises. */
export interface Database {
  readonly kind: DatabaseKind;
  readonly reader: Reader<Response>;
}

export type DatabaseResult =
  | { readonly ok: true; readonly database: Database }
  | { readonly ok: false; readonly expected: string; readonly got: string };

/** Opens a database and looks at a sample of its records. */
export function openDatabase(kind: DatabaseKind, bytes: Uint8Array): DatabaseResult {
  const expected = `an MMDB database with ${kind === "asn" ? "autonomous_system_number" : "country.iso_code or country_code"}`;
  let reader: Reader<Response>;
  try {
    reader = new Reader<Response>(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength));
  } catch {
    // Fails closed: the library's words speak of its decoder, not of the file.
    return { ok: false, expected, got: `${bytes.byteLength} bytes that are no MMDB database` };
  }
  const found = probe(reader, bytes);
  if (!found.ok) return { ok: false, expected, got: found.got };
  const read = kind === "asn" ? asnOf : countryOf;
  if (!found.records.some((record) => read(record) !== undefined)) {
    return {
      ok: false,
      expected,
      got: `a database of type ${JSON.stringify(reader.metadata.databaseType)} without it`,
    };
  }
  return { ok: true, database: { kind, reader } };
}

/** Opens a database that was looked at before, which is quick whatever its size. */
export function reopenDatabase(kind: DatabaseKind, bytes: Uint8Array): Database {
  return { kind, reader: new Reader<Response>(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)) };
}
