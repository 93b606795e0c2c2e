/** Tells where addresses are, from MMDB databases that were read beforehand. */

import type { Reader, Response } from "mmdb-lib";
import type { AddressPlace, GeoLookup } from "../model/policy.ts";
import { readAddress } from "./address.ts";
import type { Database } from "./mmdb-database.ts";
import type { Networks } from "./networks.ts";

/** Places kept in each of two generations; when the younger is full, the elder is forgotten. */
const PLACES_MAX = 4_096;

const NOWHERE: AddressPlace = { asn: undefined, country: undefined };

/** A look-up that never tells. */
export const NO_GEO: GeoLookup = { place: () => NOWHERE };

/**
 * A look-up over opened databases; what they do not tell is absent.
 * @param networks tells the autonomous system where no database does
 */
export function geoLookup(databases: readonly Database[], networks?: Networks): GeoLookup {
  if (databases.length === 0 && networks === undefined) return NO_GEO;
  const asns = databases.find(({ kind }) => kind === "asn")?.reader;
  const countries = databases.find(({ kind }) => kind === "country")?.reader;
  let young = new Map<string, AddressPlace>();
  let old = new Map<string, AddressPlace>();
  return {
    place: (address) => {
      const known = young.get(address);
      if (known !== undefined) return known;
      const place = old.get(address) ?? {
        asn: asnOf(recordOf(asns, address)) ?? networks?.asnOf(address),
        country: countryOf(recordOf(countries, address)),
      };
      if (young.size >= PLACES_MAX) {
        old = young;
        young = new Map();
      }
      young.set(address, place);
      return place;
    },
  };
}

const words = new Uint32Array(4);

function recordOf(reader: Reader<Response> | undefined, address: string): unknown {
  if (reader === undefined) return undefined;
  const family = readAddress(address, words);
  // The library would read an IPv6 address as if it were IPv4 in a database of IPv4 only.
  if (family === 0 || (family === 6 && reader.metadata.ipVersion === 4)) return undefined;
  try {
    return reader.get(family === 4 && address.includes(":") ? dotted(words[3]!) : address);
  } catch {
    // Fails open: a record that cannot be read tells nothing of where the address is.
    return undefined;
  }
}

function dotted(value: number): string {
  return [24, 16, 8, 0].map((shift) => (value >>> shift) & 0xff).join(".");
}

export function asnOf(record: unknown): number | undefined {
  const asn = member(record, "autonomous_system_number");
  return typeof asn === "number" && Number.isInteger(asn) && asn > 0 ? asn : undefined;
}

export function countryOf(record: unknown): string | undefined {
  const code = member(member(record, "country"), "iso_code") ?? member(record, "country_code");
  return typeof code === "string" && /^[A-Z]{2}$/.test(code) ? code : undefined;
}

function member(value: unknown, name: string): unknown {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>)[name] : undefined;
}
