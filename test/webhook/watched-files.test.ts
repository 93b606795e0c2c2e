import { rm, writeFile } from "node:fs/promises";
import t, { type Test } from "tap";
import { OperatingError } from "../../src/model/errors.ts";
import { WatchedFiles } from "../../src/webhook/watched-files.ts";
import { eventually } from "../support/guarded.ts";
import { type Mount, mount } from "./mount.ts";

/** Two numbers that must be equal, as a certificate must fit its key. */
async function watched(t: Test, { path }: Mount) {
  const read: number[] = [];
  const refused: string[] = [];
  const files = await WatchedFiles.open<number>({
    files: [path("one"), path("two")],
    bytesMax: 16,
    lookMs: 5,
    read: ([one, two]) => {
      if (one!.toString() !== two!.toString()) throw new OperatingError("ERR_CONFIG_INVALID", `${one} is not ${two}`);
      return Number(one);
    },
    onRead: (value) => read.push(value),
    onRefused: (error) => refused.push(error.message),
  });
  t.teardown(() => files.close());
  return { files, read, refused };
}

t.test("a swap of a mounted Secret is one change, and told once", async (t) => {
  const folder = await mount(t, { one: "1", two: "1" });
  const { files, read, refused } = await watched(t, folder);
  t.equal(files.value, 1);
  await folder.swap({ one: "2", two: "2" });
  await eventually(async () => (files.value === 2 ? true : undefined));
  await folder.swap({ one: "3", two: "3" });
  await eventually(async () => (files.value === 3 ? true : undefined));
  t.same(read, [2, 3]);
  t.same(refused.filter((why) => why.includes(" is not ")).length <= 2, true, "a look may fall into the swap");
});

t.test("what cannot be used leaves the last good value, is told once, and is followed by what can", async (t) => {
  const folder = await mount(t, { one: "1", two: "1" });
  const { files, read, refused } = await watched(t, folder);
  await folder.swap({ one: "2", two: "x" });
  await eventually(async () => (refused.includes("2 is not x") ? true : undefined));
  t.equal(files.value, 1);
  await folder.swap({ one: "3", two: "3" });
  await eventually(async () => (files.value === 3 ? true : undefined));
  t.equal(refused.filter((why) => why === "2 is not x").length, 1);
  t.same(read, [3]);
});

t.test("the good value that comes back is in force again", async (t) => {
  const folder = await mount(t, { one: "1", two: "1" });
  const { files, read, refused } = await watched(t, folder);
  await folder.swap({ one: "x", two: "y" });
  await eventually(async () => (refused.length > 0 ? true : undefined));
  await folder.swap({ one: "1", two: "1" });
  await eventually(async () => (read.length > 0 ? true : undefined));
  t.equal(files.value, 1);
});

t.test("a file that goes away leaves the last good value", async (t) => {
  const folder = await mount(t, { one: "1", two: "1" });
  const { files, refused } = await watched(t, folder);
  await rm(folder.path("two"));
  await eventually(async () =>
    refused.some((why) => /two: expected a file .* got ENOENT/.test(why)) ? true : undefined,
  );
  t.equal(files.value, 1);
  await writeFile(folder.path("two"), "1");
  await folder.swap({ one: "2", two: "2" });
  await rm(folder.path("two"));
  await writeFile(folder.path("two"), "2");
  await eventually(async () => (files.value === 2 ? true : undefined));
});

t.test("16 bytes are read, 17 are refused", async (t) => {
  const folder = await mount(t, { one: "0000000000000001", two: "0000000000000001" });
  const { files, refused } = await watched(t, folder);
  t.equal(files.value, 1);
  await folder.swap({ one: "00000000000000002", two: "00000000000000002" });
  await eventually(async () =>
    refused.some((why) => /expected at most 16 bytes, got more/.test(why)) ? true : undefined,
  );
  t.equal(files.value, 1);
});

t.test("what cannot be read at the start is an error with the file's name", async (t) => {
  const folder = await mount(t, { one: "1" });
  await t.rejects(watched(t, folder), {
    code: "ERR_CONFIG_INVALID",
    message: /two: expected a file that can be read, got ENOENT/,
  });
});
