/** Writes small MMDB databases for tests. Format: https://maxmind.github.io/MaxMind-DB/ */

/** Values of records; numbers are written as unsigned 32-bit integers. */
export type MmdbValue = string | number | { readonly [name: string]: MmdbValue };

/**
 * Writes an IPv4 database with 24-bit records.
 * @param records by the first bits of the address, such as `1100` for 192.0.0.0/4; none inside another
 */
export function writeMmdb(databaseType: string, records: Readonly<Record<string, MmdbValue>>, ipVersion = 4): Buffer {
  const nodes: [number | undefined, number | undefined][] = [[undefined, undefined]];
  const data: Buffer[] = [];
  const leaves: { readonly node: number; readonly side: 0 | 1; readonly offset: number }[] = [];
  let dataBytes = 0;
  for (const [bits, value] of Object.entries(records)) {
    let node = 0;
    for (const [index, bit] of [...bits].entries()) {
      const side = bit === "1" ? 1 : 0;
      if (index === bits.length - 1) {
        leaves.push({ node, side, offset: dataBytes });
        break;
      }
      const next = nodes[node]![side] ?? nodes.push([undefined, undefined]) - 1;
      nodes[node]![side] = next;
      node = next;
    }
    const encoded = encode(value);
    data.push(encoded);
    dataBytes += encoded.length;
  }
  for (const { node, side, offset } of leaves) nodes[node]![side] = nodes.length + 16 + offset;
  const tree = Buffer.alloc(nodes.length * 6);
  for (const [index, [left, right]] of nodes.entries()) {
    tree.writeUIntBE(left ?? nodes.length, index * 6, 3);
    tree.writeUIntBE(right ?? nodes.length, index * 6 + 3, 3);
  }
  const metadata = encode({
    binary_format_major_version: 2,
    binary_format_minor_version: 0,
    build_epoch: 1_900_000_000,
    database_type: databaseType,
    ip_version: ipVersion,
    node_count: nodes.length,
    record_size: 24,
  });
  return Buffer.concat([tree, Buffer.alloc(16), ...data, Buffer.from("\xab\xcd\xefMaxMind.com", "latin1"), metadata]);
}

function encode(value: MmdbValue): Buffer {
  if (typeof value === "string") return Buffer.concat([Buffer.from([(2 << 5) | value.length]), Buffer.from(value)]);
  if (typeof value === "number") {
    const bytes = Buffer.alloc(5, (6 << 5) | 4);
    bytes.writeUInt32BE(value, 1);
    return bytes;
  }
  const members = Object.entries(value);
  return Buffer.concat([
    Buffer.from([(7 << 5) | members.length]),
    ...members.flatMap(([name, item]) => [longText(name), encode(item)]),
  ]);
}

/** Texts of 29 bytes and more say their length in a byte of its own. */
function longText(text: string): Buffer {
  const head = text.length < 29 ? [(2 << 5) | text.length] : [(2 << 5) | 29, text.length - 29];
  return Buffer.concat([Buffer.from(head), Buffer.from(text)]);
}
