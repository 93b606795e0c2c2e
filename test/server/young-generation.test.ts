import { execFile } from "node:child_process";
import { promisify } from "node:util";
import t from "tap";

const PROGRAM = `
  import { getHeapSpaceStatistics } from "node:v8";
  import { YoungGeneration } from "./src/server/young-generation.ts";
  const size = () => getHeapSpaceStatistics().find(({ space_name }) => space_name === "new_space").space_size;
  const work = (watch) => {
    // Much of what is made stays alive for a while: V8 gives it room up to its own limit of 32 MiB.
    let kept = [];
    for (let turn = 0; turn < 400; turn++) {
      for (let i = 0; i < 2_000; i++) kept.push({ turn, i });
      if (kept.length > 60_000) kept = [];
      watch?.look();
    }
    return size();
  };
  const young = process.argv[1] === "watched" ? new YoungGeneration() : undefined;
  console.log(JSON.stringify([size(), work(young), work(young)]));
`;

async function sizes(how: "watched" | "left"): Promise<readonly number[]> {
  const args = ["--import=tsx", "--input-type=module", "--eval", PROGRAM, how];
  const { stdout } = await promisify(execFile)(process.execPath, args);
  return JSON.parse(stdout) as readonly number[];
}

t.test("the young generation gets its few megabytes under load, and no more", async (t) => {
  const [, watched, later] = (await sizes("watched")) as [number, number, number];
  const [, left] = (await sizes("left")) as [number, number, number];
  t.ok(watched >= 4 * 1024 * 1024 && watched <= 8.5 * 1024 * 1024, `${watched} bytes`);
  t.equal(later, watched);
  t.ok(left > watched, `V8 alone takes ${left} bytes`);
});
