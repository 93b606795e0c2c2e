import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import t, { type Test } from "tap";
import { startSidecarProcess } from "../../scripts/demo/sidecar.ts";
import { createPki } from "../../scripts/pki.ts";
import type { CheckResponse } from "../../src/gen/envoy/service/auth/v3/external_auth_pb.ts";
import {
  attributes,
  type Checked,
  type CheckParts,
  checkBytes,
  checkClient,
  field,
  httpOf,
  sourceOf,
} from "../support/check-client.ts";
import { metric } from "../support/guarded.ts";

const PRINCIPALS_MAX = 50;
const SESSIONS_MAX = 100;

const folder = await mkdtemp(join(tmpdir(), "sallyport-wire-"));
const before = process.env.NODE_OPTIONS;
// Little memory, so that whatever is kept without bound ends the process.
process.env.NODE_OPTIONS = "--max-old-space-size=160";
const sidecar = await startSidecarProcess({
  name: "sidecar",
  folder,
  flags: [
    ...["--principals-max", String(PRINCIPALS_MAX), "--sessions-max", String(SESSIONS_MAX), "--log-level", "debug"],
    ...["--state-dir", join(folder, "state")],
  ],
});
if (before === undefined) delete process.env.NODE_OPTIONS;
else process.env.NODE_OPTIONS = before;
const client = checkClient(sidecar.extAuthz);
t.teardown(async () => {
  client.close();
  await sidecar.stop();
  await rm(folder, { recursive: true, force: true });
});

const INTERNAL = 13;
const RESOURCE_EXHAUSTED = 8;
const HONEST = checkBytes({ principal: "spiffe://td/honest" });

function isAnswer(checked: Checked): checked is CheckResponse {
  return typeof checked !== "number";
}

function principalOf(checked: Checked): unknown {
  return isAnswer(checked) ? checked.dynamicMetadata?.principal : undefined;
}

/** A test after which the next honest caller must be served. */
function hostile(name: string, body: (t: Test) => Promise<void>): void {
  t.test(name, async (t) => {
    await body(t);
    t.equal(await client.decision(HONEST), "allow", "and the next honest caller is served");
  });
}

const pki = await createPki();
const web = await pki.issue({ spiffeId: "spiffe://td/web" });
const LONG = "x".repeat(100_000);

const readable: { name: string; parts: CheckParts; principal: string }[] = [
  { name: "nothing but a name", parts: { path: "", host: "", method: "" }, principal: "spiffe://td/web" },
  { name: "no name", parts: { principal: "" }, principal: "anonymous" },
  { name: "a name that is no SPIFFE ID", parts: { principal: "CN=web\nadmin" }, principal: "anonymous" },
  {
    name: "a name of 5,000 characters",
    parts: { principal: `spiffe://td/${"x".repeat(5_000)}` },
    principal: "anonymous",
  },
  {
    name: "a certificate that is none",
    parts: { principal: "", certificate: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END" },
    principal: "anonymous",
  },
  {
    name: "half a certificate",
    parts: { principal: "", certificate: web.certPem.slice(0, 300) },
    principal: "anonymous",
  },
  {
    name: "a certificate and half of another",
    parts: { principal: "spiffe://td/web", certificate: web.certPem + web.certPem.slice(0, 99) },
    principal: "spiffe://td/web",
  },
  { name: "a certificate of 100 KB", parts: { principal: "", certificate: LONG }, principal: "anonymous" },
  { name: "the last port there is, and none", parts: { port: 4_294_967_295 }, principal: "spiffe://td/web" },
  { name: "port 0", parts: { port: 0 }, principal: "spiffe://td/web" },
  { name: "an IPv6 address with a zone", parts: { address: "fe80::1%eth0" }, principal: "spiffe://td/web" },
  { name: "an address that is none", parts: { address: "999.1.2.3" }, principal: "spiffe://td/web" },
  { name: "an address of 100 KB", parts: { address: LONG }, principal: "spiffe://td/web" },
  { name: "a path of 100 KB", parts: { path: `/${LONG}` }, principal: "spiffe://td/web" },
  { name: "a path of 50,000 segments", parts: { path: "/a".repeat(50_000) }, principal: "spiffe://td/web" },
  { name: "a host of 100 KB", parts: { host: LONG }, principal: "spiffe://td/web" },
  { name: "a method of 100 KB", parts: { method: LONG }, principal: "spiffe://td/web" },
  { name: "a header of 100 KB", parts: { headers: { "x-long": LONG } }, principal: "spiffe://td/web" },
  { name: "a user agent of 100 KB", parts: { headers: { "user-agent": LONG } }, principal: "spiffe://td/web" },
  { name: "a request id of 100 KB", parts: { headers: { "x-request-id": LONG } }, principal: "spiffe://td/web" },
  { name: "a token of 100 KB", parts: { headers: { authorization: `Bearer ${LONG}` } }, principal: "spiffe://td/web" },
  { name: "a key of 100 KB", parts: { headers: { "x-api-key": LONG } }, principal: "spiffe://td/web" },
  {
    name: "a forwarded certificate of 100 KB",
    parts: { headers: { "x-forwarded-client-cert": LONG } },
    principal: "spiffe://td/web",
  },
  {
    name: "ten thousand headers",
    parts: { headers: Object.fromEntries(Array.from({ length: 10_000 }, (_, i) => [`x-${i}`, "x"])) },
    principal: "spiffe://td/web",
  },
  {
    name: "headers by names that objects inherit",
    parts: {
      headers: JSON.parse('{"__proto__": "x", "constructor": "y", "hasOwnProperty": "z"}') as Record<string, string>,
    },
    principal: "spiffe://td/web",
  },
  { name: "raw TCP without an address", parts: { tcp: true, address: "" }, principal: "spiffe://td/web" },
];
for (const { name, parts, principal } of readable) {
  hostile(`${name}: judged as ${principal}`, async (t) => {
    t.equal(principalOf(await client.send(checkBytes(parts))), principal);
  });
}

hostile("no attributes, no request, no source: an answer all the same", async (t) => {
  for (const bytes of [new Uint8Array(), attributes(), attributes(httpOf()), attributes(sourceOf("spiffe://td/web"))]) {
    t.ok(isAnswer(await client.send(bytes)), Buffer.from(bytes).toString("hex"));
  }
});

const NO_TEXT = Buffer.from([0x66, 0xff, 0xfe, 0x80, 0xc3]);

hostile("bytes that are no UTF-8 in a text are refused or replaced, never taken for somebody's name", async (t) => {
  const places = {
    path: httpOf(field(4, NO_TEXT)),
    host: httpOf(field(5, NO_TEXT)),
    method: httpOf(field(2, NO_TEXT)),
    "a header's value": httpOf(field(3, field(1, "user-agent"), field(2, NO_TEXT))),
    "a header's name": httpOf(field(3, field(1, NO_TEXT), field(2, "x"))),
    "a raw header's value": httpOf(field(13, field(1, field(1, "user-agent"), field(3, NO_TEXT)))),
    "a raw token": httpOf(field(13, field(1, field(1, "authorization"), field(3, Buffer.from("Bearer "), NO_TEXT)))),
  };
  for (const [name, http] of Object.entries(places)) {
    const checked = await client.send(attributes(sourceOf("spiffe://td/web"), http));
    if (isAnswer(checked)) t.equal(principalOf(checked), "spiffe://td/web", name);
    else t.equal(checked, INTERNAL, name);
  }
  const checked = await client.send(
    attributes(sourceOf(Buffer.concat([Buffer.from("spiffe://td/"), NO_TEXT])), httpOf()),
  );
  if (isAnswer(checked)) t.equal(principalOf(checked), "anonymous");
  else t.equal(checked, INTERNAL);
});

hostile("a raw header sent twice is seen twice: two tokens name nobody", async (t) => {
  const twice = ["a.b.c", "d.e.f"].map((token) => field(1, field(1, "authorization"), field(3, `Bearer ${token}`)));
  const checked = await client.send(attributes(sourceOf("spiffe://td/twice"), httpOf(field(13, ...twice))));
  t.match(checked, { dynamicMetadata: { principal: "spiffe://td/twice", reasons: [/^identity\.faults:/] } });
});

hostile("a field given twice counts as its last, an unknown one is skipped unread", async (t) => {
  const body = field(11, LONG);
  const bytes = attributes(sourceOf("spiffe://td/first"), sourceOf("spiffe://td/last"), httpOf(body, field(12, LONG)));
  t.equal(principalOf(await client.send(bytes)), "spiffe://td/last");
});

hostile("a message of more than 4 MiB is refused unread", async (t) => {
  const huge = field(11, Buffer.alloc(4 * 1024 * 1024));
  t.equal(await client.send(attributes(sourceOf("spiffe://td/web"), httpOf(huge))), RESOURCE_EXHAUSTED);
  const large = field(11, Buffer.alloc(4 * 1024 * 1024 - 1_000));
  t.equal(principalOf(await client.send(attributes(sourceOf("spiffe://td/web"), httpOf(large)))), "spiffe://td/web");
});

hostile("nested beyond measure is refused or read, and ends nothing", async (t) => {
  let value: Uint8Array = field(3, "x"); // google.protobuf.Value.string_value
  for (let i = 0; i < 5_000; i++) value = field(6, field(1, value)); // a list with one value
  const metadata = field(
    1,
    field(1, "envoy.filters.http.jwt_authn"),
    field(2, field(1, field(1, "jwt"), field(2, value))),
  );
  const checked = await client.send(attributes(sourceOf("spiffe://td/web"), httpOf(), field(11, metadata)));
  t.ok(isAnswer(checked) || checked === INTERNAL, String(checked));
});

hostile("random bytes never end the process, nor are they ever let in as somebody proven", async (t) => {
  const base = checkBytes({ principal: "spiffe://td/changed" });
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.uint8Array({ maxLength: 64 }), fc.nat(base.length), fc.nat(8)), {
        minLength: 20,
        maxLength: 40,
      }),
      async (changes) => {
        const answers = await Promise.all(
          changes.flatMap(([noise, at, cut]) => [
            client.send(noise),
            client.send(Uint8Array.from([...base.subarray(0, at), ...noise, ...base.subarray(at + cut)])),
          ]),
        );
        for (const answer of answers) {
          if (!isAnswer(answer)) continue;
          const principal = String(answer.dynamicMetadata?.principal);
          if (principal !== "anonymous" && !/^spiffe:\/\/[a-z0-9._-]+(?:\/[\w.-]+)*$/.test(principal))
            throw new Error(principal);
        }
      },
    ),
    { numRuns: 30 },
  );
  t.ok((await metric(sidecar, "sallyport_principals")) <= PRINCIPALS_MAX);
});

hostile("ten thousand principals and credentials from one address leave the tables bounded", async (t) => {
  const inFlight = 100;
  for (let i = 0; i < 10_000; i += inFlight) {
    await Promise.all(
      Array.from({ length: inFlight }, (_, n) =>
        client.send(
          checkBytes({
            principal: `spiffe://td/minted-${i + n}`,
            path: `/minted/${(i + n).toString(36)}`,
            headers: {
              authorization: `Bearer opaque-${i + n}`,
              "user-agent": `agent-${i + n}/1`,
              "x-request-id": `r-${i + n}`,
            },
          }),
        ),
      ),
    );
  }
  t.ok((await metric(sidecar, "sallyport_principals")) <= PRINCIPALS_MAX);
  t.ok((await metric(sidecar, "sallyport_sessions")) <= SESSIONS_MAX);
  t.ok((await metric(sidecar, "sallyport_checks_total")) >= 10_000);
});

hostile("thousands of requests with long texts do not fill the memory", async (t) => {
  const inFlight = 50;
  for (let i = 0; i < 4_000; i += inFlight) {
    const answers = await Promise.all(
      Array.from({ length: inFlight }, (_, n) =>
        client.send(
          checkBytes({
            path: `/${i + n}?${LONG.slice(0, 20_000)}`,
            headers: { "user-agent": `agent-${i + n} ${LONG.slice(0, 20_000)}`, "x-request-id": `long-${i + n}` },
          }),
        ),
      ),
    );
    t.ok(answers.every(isAnswer));
  }
});

hostile("nothing of what was sent is in the log", async (t) => {
  const said = await readFile(sidecar.log, "utf8");
  for (const text of ["xxxxxxxx", "opaque-", "minted", "CN=web", "a.b.c", "BEGIN CERTIFICATE"])
    t.notOk(said.includes(text), text);
});
