import { existsSync, readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { inspect, isDeepStrictEqual } from "node:util";
import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import fc from "fast-check";
import t from "tap";
import { createPki } from "../../scripts/pki.ts";
import type { Headers } from "../../src/envoy/headers.ts";
import { RequestMemory, readRequest } from "../../src/envoy/request.ts";
import { AttributeContext_PeerSchema } from "../../src/gen/envoy/service/auth/v3/attribute_context_pb.ts";
import { CheckRequestSchema } from "../../src/gen/envoy/service/auth/v3/external_auth_pb.ts";
import { expectedRequest } from "../support/expected-request.ts";
import { skipUnless } from "../support/skip.ts";
import { changed, delimited, wireMessage } from "../support/wire-messages.ts";

const pki = await createPki();
const issued = await pki.issue({ spiffeId: "spiffe://td/web" });
const CERTIFICATE = encodeURIComponent(issued.certPem);
const HOPS = [/^spiffe:\/\/td\/edge$/];
const HASH = "c3".repeat(32);
const JWT_AUTHN = "envoy.filters.http.jwt_authn";

/** Remembers from message to message, as it does in a process: what is remembered must change nothing. */
const memory = new RequestMemory(4);

/** One for all, so that nothing of a message may be left when the next is read. */
const request = memory.lend();

/** What is read of the bytes by both ways; "refused" where they are no message. */
function bothWays(bytes: Uint8Array): { readonly expected: unknown; readonly read: unknown } {
  const expected = attempt((isAnchored) => {
    const message = fromBinary(CheckRequestSchema, bytes, { readUnknownFields: false });
    const { headers, ...facts } = expectedRequest(message, HOPS, isAnchored);
    return { ...facts, headers: toldBy(headers) };
  });
  const read = attempt((isAnchored) => {
    const { headers, peerCertificate, ...facts } = readRequest(
      bytes,
      memory,
      HOPS,
      ({ encoded, ...shown }) => isAnchored({ ...shown, encoded: encoded?.() }),
      request,
    );
    return { ...facts, peerCertificate: peerCertificate?.(), headers: toldBy(headers) };
  });
  return { expected, read };
}

interface Shown {
  readonly spiffeId: string;
  readonly sha256: string | undefined;
  readonly encoded: string | undefined;
}

function attempt(read: (isAnchored: (shown: Shown) => boolean) => object): unknown {
  const asked: Shown[] = [];
  try {
    const facts = read((shown) => {
      asked.push(shown);
      return shown.spiffeId !== "spiffe://td/unanchored";
    });
    return { ...facts, asked };
  } catch {
    return "refused"; // by both or by none
  }
}

function toldBy(headers: Headers): unknown {
  const told = [...headers.names(""), "absent", "constructor"].sort();
  return {
    own: headers.names("x-sallyport-"),
    values: told.map((name) => [name, headers.first(name), headers.all(name), headers.count(name)]),
  };
}

/** @throws {Error} when the two ways differ */
function agree(bytes: Uint8Array): void {
  const { expected, read } = bothWays(bytes);
  const shown = Buffer.from(bytes).toString("base64");
  if (!isDeepStrictEqual(read, expected)) throw new Error(`${differences(read, expected)}\n${shown}`);
  // The second time is answered by what is remembered.
  if (!isDeepStrictEqual(bothWays(bytes).read, expected)) throw new Error(`${shown}: read otherwise the second time`);
}

/** What differs of two readings, by the name of the field. */
function differences(read: unknown, expected: unknown): string {
  if (read === "refused" || expected === "refused") return inspect({ read, expected }, { depth: 1 });
  const of = Object.entries(expected as object).filter(
    ([name, value]) => !isDeepStrictEqual((read as Record<string, unknown>)[name], value),
  );
  return inspect(
    of.map(([name, value]) => ({ name, read: (read as Record<string, unknown>)[name], expected: value })),
    { depth: 6 },
  );
}

const XFCC = `By=spiffe://td/edge;Hash=${HASH};URI=spiffe://td/behind`;
const NAMES = [
  ":authority",
  ":method",
  ":path",
  ":scheme",
  "accept",
  "authorization",
  "content-type",
  "Content-Type",
  "dpop",
  "signature-input",
  "upgrade",
  "user-agent",
  "x-forwarded-client-cert",
  "x-request-id",
  "x-sallyport-connection",
  "x-sallyport-ja4",
  "X-Sallyport-Ja3",
  "x-sallyport-peer-cert",
  "x-sallyport-peer-fp",
  "x-sallyport-principal",
  "x-sallyport-protocol",
  "x-sallyport-sni",
  "x-sallyport-source",
  "x-sallyport-source-port",
  "x-sallyport-tls",
  "x-sallyport-other",
  "x-api-key",
  JWT_AUTHN,
  "iss",
  "1",
];
const VALUES = [
  "Orders.EXAMPLE:8443",
  "GET",
  "post",
  "/orders?token=secret#part",
  "https",
  "text/event-stream",
  "Bearer a.b.c",
  "Bearer a.b.c, Bearer d.e.f",
  "application/grpc",
  "application/grpc-web",
  "WebSocket",
  "billing/1.0",
  XFCC,
  `${XFCC},By=spiffe://td/edge;Hash=${HASH};URI=spiffe://td/edge`,
  'URI="open',
  "Hash=zz",
  "17",
  "tcp",
  "TLSv1.3/TLS_AES_128_GCM_SHA256",
  "t13d1312h2_f57a46bbacb6_ab7e3b40a677",
  HASH,
  "192.0.2.9",
  "2001:DB8::1%eth0",
  "ledger",
  CERTIFICATE,
];
const PRINCIPALS = ["spiffe://td/web", "spiffe://td/edge", "spiffe://td/unanchored", "CN=web", "spiffe://td//x"];
const TEXTS = {
  key: NAMES,
  value: VALUES,
  principal: PRINCIPALS,
  certificate: [CERTIFICATE, "rubbish", CERTIFICATE.slice(0, 400)],
  address: ["10.0.0.1", "2001:DB8:0:0::1", "999.1.1.1"],
  server_listener_name: ["sallyport_tcp", "other"],
  sni: ["ledger"],
  service: ["ledger"],
  string_value: ["https://issuer", "billing"],
};

t.test("whatever a message holds, in whatever order, is read as the general decoder reads it", async (t) => {
  const message = wireMessage(CheckRequestSchema, { texts: TEXTS, broken: false });
  fc.assert(fc.property(message, agree), { numRuns: 1_000, interruptAfterTimeLimit: 15_000 });
  t.pass();
});

/** A message as Envoy sends it, with everything that is looked at. */
function whole(http: object): MessageInitShape<typeof CheckRequestSchema> {
  const address = (text: string) =>
    ({
      address: {
        case: "socketAddress",
        value: { address: text, portSpecifier: { case: "portValue", value: 40_000 } },
      },
    }) as const;
  return {
    attributes: {
      source: {
        principal: "spiffe://td/edge",
        certificate: CERTIFICATE,
        address: address("10.0.0.7"),
        labels: { a: "b" },
      },
      destination: { principal: "spiffe://td/orders", service: "orders", address: address("10.0.0.1") },
      request: {
        time: { seconds: 1_772_452_800n, nanos: 5 },
        http: { id: "1", method: "GET", path: "/a?b", host: "orders:8443", scheme: "https", size: 17n, ...http },
      },
      contextExtensions: { virtual_host: "local" },
      metadataContext: {
        filterMetadata: {
          [JWT_AUTHN]: {
            jwt: { iss: "https://issuer", sub: "billing", jti: "1", exp: 1.5, act: { sub: ["x", true, null] } },
            failed: "text",
          },
          "somebody.else": { jwt: { iss: "https://forged" } },
        },
      },
      routeMetadataContext: { filterMetadata: { [JWT_AUTHN]: { jwt: { iss: "https://forged" } } } },
      tlsSession: { sni: "orders" },
    },
  };
}

const HEADERS = Object.fromEntries(NAMES.map((name, i) => [name, VALUES[i % VALUES.length] as string]));
const WHOLE = [
  whole({ headers: HEADERS }),
  whole({
    headerMap: {
      headers: Object.entries(HEADERS).map(([key, value], i) => ({
        key,
        ...(i % 3 === 0 ? { value } : { rawValue: Buffer.from(`${value}${i % 5 === 0 ? "\xff" : ""}`, "latin1") }),
      })),
    },
  }),
].map((init) => toBinary(CheckRequestSchema, create(CheckRequestSchema, init)));

t.test("a whole message is read alike, in both of Envoy's encodings of headers", async (t) => {
  for (const bytes of WHOLE) {
    const { read, expected } = bothWays(bytes);
    t.not(read, "refused");
    t.strictSame(read, expected);
  }
});

t.test(
  "what is cut, changed or no text is refused where the general decoder refuses it, else read alike",
  async (t) => {
    const broken = wireMessage(CheckRequestSchema, { texts: TEXTS, broken: true });
    const either = fc.oneof(
      broken,
      broken.chain(changed),
      fc.constantFrom(...WHOLE).chain(changed),
      fc.uint8Array({ maxLength: 64 }),
    );
    let refused = 0;
    fc.assert(
      fc.property(either, (bytes) => {
        if (bothWays(bytes).expected === "refused") refused++;
        return agree(bytes);
      }),
      { numRuns: 2_000, interruptAfterTimeLimit: 15_000 },
    );
    t.ok(refused > 100, `${refused} were refused`);
  },
);

t.test("every end of a message is refused or read alike", async (t) => {
  for (const bytes of WHOLE) for (let end = 0; end < bytes.length; end += 3) agree(bytes.subarray(0, end));
  t.pass();
});

t.test("texts must be UTF-8 also where nobody asks for them, and where another one replaced them", async (t) => {
  const NO_TEXT = Buffer.from([0x66, 0xff, 0xfe]);
  const peer = (...parts: Uint8Array[]) => delimited(1, Buffer.concat(parts));
  const inAttributes = (...parts: Uint8Array[]) => delimited(1, Buffer.concat(parts));
  const http = (...parts: Uint8Array[]) => inAttributes(delimited(4, delimited(2, Buffer.concat(parts))));
  const places = {
    certificate: inAttributes(peer(delimited(5, NO_TEXT))),
    "replaced certificate": inAttributes(peer(delimited(5, NO_TEXT), delimited(5, Buffer.from(CERTIFICATE)))),
    "destination's certificate": inAttributes(delimited(2, delimited(5, NO_TEXT))),
    "end of a certificate": inAttributes(peer(delimited(5, Buffer.concat([Buffer.from(CERTIFICATE), NO_TEXT])))),
    id: http(delimited(1, NO_TEXT)),
    protocol: http(delimited(10, NO_TEXT)),
    label: inAttributes(peer(delimited(3, delimited(2, NO_TEXT)))),
    "header's name": http(delimited(13, delimited(1, delimited(1, NO_TEXT)))),
    "long path": http(delimited(4, Buffer.concat([Buffer.alloc(500, "a"), NO_TEXT]))),
  };
  for (const [name, bytes] of Object.entries(places)) {
    t.same(bothWays(bytes), { expected: "refused", read: "refused" }, name);
  }
  const raw = http(
    delimited(13, delimited(1, Buffer.concat([delimited(1, Buffer.from("accept")), delimited(3, NO_TEXT)]))),
  );
  t.not(bothWays(raw).read, "refused", "raw values may be anything");
  agree(raw);
});

t.test("messages and groups nested too deep are refused, one level less is read", async (t) => {
  const struct = (levels: number): Uint8Array => {
    let value: Uint8Array = delimited(3, Buffer.from("x"));
    for (let i = 0; i < levels; i++) value = delimited(6, delimited(1, value));
    const entry = Buffer.concat([delimited(1, Buffer.from("jwt")), delimited(2, value)]);
    return delimited(1, delimited(11, delimited(1, delimited(2, delimited(1, entry)))));
  };
  const groups = (levels: number): Uint8Array =>
    delimited(1, Buffer.concat([Buffer.alloc(levels, 0x7b), Buffer.alloc(levels, 0x7c)]));
  const deepest = { struct: 0, groups: 0 };
  for (const [name, make] of Object.entries({ struct, groups })) {
    for (let levels = 1; levels < 110; levels++) {
      const bytes = make(levels);
      agree(bytes);
      if (bothWays(bytes).read !== "refused") deepest[name as keyof typeof deepest] = levels;
    }
  }
  t.same(deepest, { struct: 47, groups: 98 });
});

t.test("a source in two parts is one peer", async (t) => {
  const part = (init: MessageInitShape<typeof AttributeContext_PeerSchema>) =>
    delimited(1, delimited(1, toBinary(AttributeContext_PeerSchema, create(AttributeContext_PeerSchema, init))));
  const bytes = Buffer.concat([part({ principal: "spiffe://td/web" }), part({ certificate: CERTIFICATE })]);
  t.match(bothWays(bytes).read, { peerSpiffeId: "spiffe://td/web", certificate: { sha256: issued.sha256 } });
  agree(bytes);
});

t.test("metadata by the name of what objects inherit from is nobody's claims", async (t) => {
  // The general decoder takes such an entry for the prototype of all entries: what it holds would be found as jwt_authn's.
  const text = (field: number, value: string) => delimited(field, Buffer.from(value));
  const entry = (key: string, value: Uint8Array) => delimited(1, Buffer.concat([text(1, key), delimited(2, value)]));
  const claims = delimited(5, entry("iss", text(3, "https://forged")));
  const jwt = delimited(5, entry("jwt", claims));
  const attributes = Buffer.concat([
    delimited(4, delimited(2, Buffer.alloc(0))),
    delimited(11, entry("__proto__", entry(JWT_AUTHN, jwt))),
  ]);
  t.same(readRequest(delimited(1, attributes), memory, []).verifiedClaims, []);
});

t.test("claims of one token are one object, which nobody can change", async (t) => {
  const [bytes = new Uint8Array()] = WHOLE;
  const claims = () => readRequest(bytes, memory, []).verifiedClaims[0] as { act: { sub: string } };
  t.equal(claims(), claims());
  t.throws(() => {
    claims().act.sub = "somebody else";
  }, TypeError);
});

/** Recorded requests are too large to be part of this repository. */
const DATA = process.env.SALLYPORT_SHARED ?? fileURLToPath(new URL("../../../shared", import.meta.url));
const SAMPLES = `${DATA}/envoy/samples`;
const missing = skipUnless(existsSync(SAMPLES), `${SAMPLES} is not here; SALLYPORT_SHARED names the folder`, {
  obtainable: false,
});

t.test("every recorded request is read alike, also cut and changed", missing, async (t) => {
  for (const name of readdirSync(SAMPLES).filter((file) => file.endsWith(".bin"))) {
    const bytes = readFileSync(`${SAMPLES}/${name}`);
    t.not(bothWays(bytes).read, "refused", name);
    agree(bytes);
    fc.assert(fc.property(changed(bytes), agree), { numRuns: 60, interruptAfterTimeLimit: 3_000 });
  }
});

t.test("what was given back holds nothing of its message", async (t) => {
  const lent = memory.lend();
  const headers = { authorization: "Bearer secret" };
  const message = create(CheckRequestSchema, { attributes: { request: { http: { headers } } } });
  const read = readRequest(toBinary(CheckRequestSchema, message), memory, [], () => true, lent);
  t.equal(read.headers.first("authorization"), "Bearer secret");
  memory.giveBack(lent);
  t.equal(lent.bytes.length, 0);
  t.equal(read.headers.first("authorization"), undefined);
  t.notOk(inspect(lent, { depth: 9, showHidden: true }).includes("secret"));
});
