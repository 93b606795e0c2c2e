/** Usage: tsx scripts/build-networks.ts   Writes dist/data/networks.bin, the table of autonomous systems that is shipped. */

import { createReadStream, existsSync, mkdirSync, statSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { readAddress } from "../src/bundle/address.ts";
import { Networks } from "../src/bundle/networks.ts";

const OUT = fileURLToPath(new URL("../dist/data/networks.bin", import.meta.url));
const SOURCE = dirname(createRequire(import.meta.url).resolve("@ip-location-db/asn/package.json"));

if (!existsSync(OUT) || statSync(OUT).mtimeMs < statSync(join(SOURCE, "package.json")).mtimeMs) {
  const bytes = Networks.write(await readIpv4(), await readIpv6());
  mkdirSync(dirname(OUT), { recursive: true });
  writeFileSync(OUT, bytes);
  console.log(`dist/data/networks.bin: ${bytes.byteLength} bytes`);
}

/** `start,end,asn,name`, numbers; in order. Neighbours of one system become one range, gaps belong to nobody. */
async function readIpv4(): Promise<readonly (readonly [number, number])[]> {
  const ranges: [start: number, asn: number][] = [];
  let next = 0;
  for await (const line of linesOf("asn-ipv4-num.csv")) {
    const [start = Number.NaN, end = Number.NaN, asn = Number.NaN] = line.split(",", 3).map(Number);
    if (start > next) ranges.push([next, 0]);
    if (ranges.at(-1)?.[1] !== asn || start > next) ranges.push([start, asn]);
    next = end + 1;
  }
  if (next < 2 ** 32) ranges.push([next, 0]);
  return ranges;
}

async function readIpv6(): Promise<readonly (readonly [number, number, number])[]> {
  const ranges: [high: number, low: number, asn: number][] = [];
  const words = new Uint32Array(4);
  let next = 0n;
  for await (const line of linesOf("asn-ipv6.csv")) {
    const [from = "", to = "", number = ""] = line.split(",", 3);
    readAddress(from, words);
    const start = (BigInt(words[0] as number) << 32n) | BigInt(words[1] as number);
    readAddress(to, words);
    const end = (BigInt(words[0] as number) << 32n) | BigInt(words[1] as number);
    if (start > next) ranges.push([...halves(next), 0]);
    if (ranges.at(-1)?.[2] !== Number(number) || start > next) ranges.push([...halves(start), Number(number)]);
    next = end + 1n;
  }
  ranges.push([...halves(next), 0]);
  return ranges;
}

function halves(value: bigint): [number, number] {
  return [Number(value >> 32n), Number(value & 0xffff_ffffn)];
}

async function* linesOf(file: string): AsyncGenerator<string> {
  for await (const line of createInterface({ input: createReadStream(join(SOURCE, file)) }))
    if (line !== "") yield line;
}
