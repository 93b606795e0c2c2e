import t from "tap";
import { OperatingError } from "../../src/model/errors.ts";
import { errorFields } from "../../src/telemetry/log.ts";

t.test("our own errors are told whole, others by their kind and place only", async (t) => {
  t.same(errorFields(new OperatingError("ERR_JWKS", "keys from https://x: refused")), {
    code: "ERR_JWKS",
    error: "keys from https://x: refused",
  });
  const foreign = errorFields(new TypeError("unexpected token sk-live-1 in header"));
  t.match(foreign, { code: "TypeError", at: /log\.test\.ts/ });
  t.notOk(JSON.stringify(foreign).includes("sk-live-1"));
  t.same(errorFields("text"), { code: "string" });
  t.same(errorFields(undefined), { code: "undefined" });
});
