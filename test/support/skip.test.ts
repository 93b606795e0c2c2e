import t from "tap";
import { skipUnless } from "./skip.ts";

const before = process.env.SALLYPORT_FORBID_SKIPS;
t.afterEach(() => {
  if (before === undefined) delete process.env.SALLYPORT_FORBID_SKIPS;
  else process.env.SALLYPORT_FORBID_SKIPS = before;
});

t.test("what is there is not skipped", async (t) => {
  process.env.SALLYPORT_FORBID_SKIPS = "1";
  t.same(skipUnless(true, "a browser"), {});
});

t.test("what is missing is skipped with its reason, and fails where skips are forbidden", async (t) => {
  delete process.env.SALLYPORT_FORBID_SKIPS;
  t.same(skipUnless(false, "a browser"), { skip: "a browser" });
  process.env.SALLYPORT_FORBID_SKIPS = "1";
  t.throws(() => skipUnless(false, "a browser"), /this is missing: a browser/);
});

t.test("what nobody can install is skipped everywhere", async (t) => {
  process.env.SALLYPORT_FORBID_SKIPS = "1";
  t.same(skipUnless(false, "recordings", { obtainable: false }), { skip: "recordings" });
});
