/** Opens a policy's packed data, which is quick whatever its size. */

import type { AddressLists, GeoLookup, ListHit, Lookup, PostureFacts } from "../model/policy.ts";
import { geoLookup } from "./geo.ts";
import { Hits } from "./list-hits.ts";
import { type Database, reopenDatabase } from "./mmdb-database.ts";
import type { Networks } from "./networks.ts";
import type { PackedAddresses, PackedFingerprints, PackedGeo, PackedPosture } from "./pack-data.ts";
import { TextLookup, textAt } from "./packed-table.ts";
import { SortedLists } from "./ranges.ts";

export function openAddresses({ hits, ranges }: PackedAddresses): AddressLists {
  return new SortedLists(ranges, new Hits(hits));
}

export function openFingerprints({ hits, table, hitOf }: PackedFingerprints): Lookup<ListHit> {
  const opened = new Hits(hits);
  return new TextLookup(table, (number) => opened.at(hitOf[number]!));
}

export function openGeo({ databases, shipped }: PackedGeo, networks: Networks | undefined): GeoLookup {
  const opened = databases.map(({ kind, bytes }): Database => reopenDatabase(kind, bytes));
  return geoLookup(opened, shipped ? networks : undefined);
}

export function openPostureFacts({ table, facts, factsOf }: PackedPosture): Lookup<PostureFacts> {
  return new TextLookup(table, (number) => {
    const { facts: given, ...stated } = JSON.parse(textAt(facts, factsOf[number]!)) as PostureFacts;
    // Without a prototype: a fact that is asked for by a name such as `constructor` is absent.
    return { facts: Object.assign(Object.create(null), given) as Record<string, string>, ...stated };
  });
}
