import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import t from "tap";
import { createPki } from "../../scripts/pki.ts";
import { type ReadRequest, RequestMemory, readRequest } from "../../src/envoy/request.ts";
import { CheckRequestSchema } from "../../src/gen/envoy/service/auth/v3/external_auth_pb.ts";

type Init = MessageInitShape<typeof CheckRequestSchema>;
type Http = NonNullable<NonNullable<NonNullable<Init["attributes"]>["request"]>["http"]>;

const pki = await createPki();
const issued = await pki.issue({ spiffeId: "spiffe://td/web" });
const CERTIFICATE = encodeURIComponent(issued.certPem);
const EDGE = /^spiffe:\/\/td\/edge$/;

function read(init: Init, hops: readonly RegExp[] = []): ReadRequest {
  return readRequest(toBinary(CheckRequestSchema, create(CheckRequestSchema, init)), new RequestMemory(8), hops);
}

function http(parts: Http, source: NonNullable<Init["attributes"]>["source"] = { principal: "spiffe://td/web" }) {
  return read({ attributes: { source, request: { http: parts } } });
}

t.test("what Envoy leaves out is absent, not empty", async (t) => {
  t.match(read({}), { protocol: "tcp", method: "CONNECT", path: "", destination: "listener", faults: [] });
  const bare = http({});
  t.match(bare, { protocol: "http", method: "GET", path: "", destination: "", faults: [] });
  for (const name of ["requestId", "connectionId", "sourceAddress", "sourcePort", "userAgent", "bearer"] as const) {
    t.equal(bare[name], undefined, name);
  }
  t.same(bare.tls, { ja3: undefined, ja4: undefined, version: undefined, sni: undefined });
  t.equal(bare.certificate, undefined);
});

const destinations = [
  { name: "a port is no part of it", host: "orders.example:8443", want: "orders.example" },
  { name: "letters are lower case", host: "Orders.EXAMPLE", want: "orders.example" },
  { name: "a dot at the end is no part of it", host: "orders.example.", want: "orders.example" },
  { name: "an IPv6 address keeps its colons", host: "[2001:db8::1]:443", want: "[2001:db8::1]" },
  { name: "it ends after 256 characters", host: "a".repeat(300), want: "a".repeat(256) },
];
for (const { name, host, want } of destinations) {
  t.test(`destination: ${name}`, async (t) => t.equal(http({ host }).destination, want));
}

const paths = [
  { name: "the query is no part of it", path: "/orders?token=secret", want: "/orders" },
  { name: "the fragment is no part of it", path: "/orders#part", want: "/orders" },
  { name: "2,048 characters are whole", path: `/${"a".repeat(2_047)}`, want: `/${"a".repeat(2_047)}` },
  { name: "beyond that it is cut", path: `/${"a".repeat(2_048)}`, want: `/${"a".repeat(2_047)}` },
];
for (const { name, path, want } of paths) {
  t.test(`path: ${name}`, async (t) => t.equal(http({ path }).path, want));
}

t.test("gRPC is told by its content type, gRPC-Web is HTTP", async (t) => {
  const protocolOf = (type: string) => http({ headers: { "content-type": type } }).protocol;
  t.equal(protocolOf("application/grpc"), "grpc");
  t.equal(protocolOf("application/grpc+proto"), "grpc");
  t.equal(protocolOf("application/grpc-web"), "http");
  t.equal(protocolOf("application/json"), "http");
});

t.test("headers are read alike in both of Envoy's encodings", async (t) => {
  const values = {
    "user-agent": "billing/1.0",
    "x-request-id": "r-1",
    "x-sallyport-ja4": "t13d1312h2_f57a46bbacb6_ab7e3b40a677",
    "x-sallyport-ja3": "0cce74b0d9b7f8528fb2181588d23793",
    "x-sallyport-tls": "TLSv1.3/TLS_AES_128_GCM_SHA256",
    "x-sallyport-connection": "17",
    ":path": "/orders?x=1",
    ":authority": "orders",
    ":method": "post",
  };
  const wanted = {
    userAgent: "billing/1.0",
    requestId: "r-1",
    connectionId: "17",
    path: "/orders",
    destination: "orders",
    method: "POST",
    tls: {
      ja3: "0cce74b0d9b7f8528fb2181588d23793",
      ja4: "t13d1312h2_f57a46bbacb6_ab7e3b40a677",
      version: "TLSv1.3/TLS_AES_128_GCM_SHA256",
    },
  };
  t.match(http({ headers: values }), wanted);
  const headers = Object.entries(values).map(([key, value]) => ({ key, rawValue: Buffer.from(value) }));
  t.match(http({ headerMap: { headers } }), wanted);
});

t.test("names that objects inherit are no headers", async (t) => {
  t.equal(http({ headers: {} }).headers.first("constructor"), undefined);
  t.equal(http({ headers: {} }).headers.count("__proto__"), 0);
  t.equal(http({ headerMap: { headers: [] } }).headers.first("toString"), undefined);
});

t.test("a fingerprint that is no fingerprint is not told", async (t) => {
  for (const text of ["", "a b", "x".repeat(65), "t13<script>", "ä"]) {
    t.equal(http({ headers: { "x-sallyport-ja4": text } }).tls.ja4, undefined, JSON.stringify(text).slice(0, 20));
  }
  t.equal(http({ headers: { "x-sallyport-ja4": "x".repeat(64) } }).tls.ja4, "x".repeat(64));
});

const bearers = [
  { name: "the token follows the word", value: "Bearer a.b.c", want: "a.b.c" },
  { name: "the word is in any case", value: "bEaReR  a.b.c", want: "a.b.c" },
  { name: "another scheme is none", value: "Basic dTpw", want: undefined },
  { name: "the word alone is none", value: "Bearer ", want: undefined },
  { name: "a token with a space is none", value: "Bearer a b", want: undefined },
];
for (const { name, value, want } of bearers) {
  t.test(`bearer: ${name}`, async (t) => t.equal(http({ headers: { authorization: value } }).bearer, want));
}

t.test("two authorization headers name nobody, in both encodings", async (t) => {
  const joined = http({ headers: { authorization: "Bearer a.b.c,Bearer d.e.f" } });
  t.match(joined, { bearer: undefined, faults: ["more than one authorization header"] });
  const headers = ["Bearer a.b.c", "Bearer d.e.f"].map((value) => ({ key: "authorization", value }));
  t.match(http({ headerMap: { headers } }), { bearer: undefined, faults: ["more than one authorization header"] });
});

t.test("a certificate that cannot be read is a fault, and names nobody", async (t) => {
  const names = [
    { certificate: "rubbish", fault: /not a PEM certificate/ },
    { certificate: "%E0%A4%A", fault: /not a PEM certificate/ },
    { certificate: "x".repeat(65_537), fault: /longer than 65536 characters/ },
    { certificate: CERTIFICATE.slice(0, 400), fault: /not a PEM certificate/ },
  ];
  for (const { certificate, fault } of names) {
    const request = http({}, { principal: "", certificate });
    t.equal(request.certificate, undefined);
    t.equal(request.peerSpiffeId, undefined);
    t.match(request.faults[0], fault);
  }
});

t.test("the peer's certificate is read with its name and thumbprint", async (t) => {
  const request = http({}, { principal: "spiffe://td/web", certificate: CERTIFICATE });
  t.match(request, { peerSpiffeId: "spiffe://td/web", faults: [] });
  t.match(request.certificate, { via: "peer", sha256: issued.sha256, spiffeId: "spiffe://td/web", key: "EC P-256" });
});

t.test("a name that is no SPIFFE ID is kept apart, cut to 256 characters", async (t) => {
  t.match(http({}, { principal: "CN=web" }), { peerSpiffeId: undefined, peerNameInvalid: "CN=web" });
  t.equal(http({}, { principal: `spiffe://${"a".repeat(3_000)}` }).peerNameInvalid?.length, 256);
});

t.test("without the certificate its SHA-256 from Envoy tells it", async (t) => {
  const hash = "ab".repeat(32);
  const peer = (value: string) => http({ headers: { "x-sallyport-peer-fp": value } });
  t.match(peer(hash).certificate, { sha256: hash, spiffeId: "spiffe://td/web" });
  t.equal(peer(hash.toUpperCase()).certificate, undefined);
  t.equal(peer("ab").certificate, undefined);
});

t.test("the address is the one that Envoy derived, without zone, or the socket's", async (t) => {
  const of = (address: string, headers: Record<string, string> = {}) =>
    http({ headers }, { address: { address: { case: "socketAddress", value: { address } } } }).sourceAddress;
  t.equal(of("10.0.0.1"), "10.0.0.1");
  t.equal(of("fe80::1%eth0"), "fe80::1");
  t.equal(of("2001:DB8:0:0::1"), "2001:db8::1");
  t.equal(of("::ffff:192.0.2.1"), "192.0.2.1");
  t.equal(of("not an address"), undefined);
  t.equal(of("10.0.0.1", { "x-sallyport-source": "192.0.2.9" }), "192.0.2.9");
  t.equal(of("10.0.0.1", { "x-sallyport-source": "rubbish" }), "10.0.0.1");
});

t.test("a pipe has no address, a named port no number", async (t) => {
  const pipe = http({}, { address: { address: { case: "pipe", value: { path: "/run/x.sock" } } } });
  t.match(pipe, { sourceAddress: undefined, sourcePort: undefined });
  const named = http(
    {},
    {
      address: {
        address: {
          case: "socketAddress",
          value: { address: "10.0.0.1", portSpecifier: { case: "namedPort", value: "https" } },
        },
      },
    },
  );
  t.match(named, { sourceAddress: "10.0.0.1", sourcePort: undefined });
});

t.test("raw TCP is named by its server name, then by what Envoy calls it, then by its port", async (t) => {
  const port = (value: number) => ({
    address: {
      address: { case: "socketAddress" as const, value: { portSpecifier: { case: "portValue" as const, value } } },
    },
  });
  const tcp = (attributes: NonNullable<Init["attributes"]>) => read({ attributes }).destination;
  t.equal(tcp({ tlsSession: { sni: "ledger" }, destination: { service: "other" } }), "ledger");
  t.equal(tcp({ destination: { service: "ledger", ...port(8_443) } }), "ledger");
  t.equal(tcp({ destination: port(8_443) }), "port-8443");
  t.equal(tcp({ destination: port(4_294_967_295) }), "port-4294967295");
});

t.test("sizes that are none, or beyond numbers, are not told", async (t) => {
  t.equal(http({ size: 5_000n }).requestBytes, 5_000);
  for (const size of [0n, -1n, 2n ** 53n]) t.equal(http({ size }).requestBytes, undefined, String(size));
});

t.test("claims that jwt_authn verified are told apart from what stands beside them", async (t) => {
  const claims = { iss: "https://issuer", sub: "billing" };
  const { verifiedClaims } = read({
    attributes: {
      request: { http: {} },
      metadataContext: {
        filterMetadata: {
          "envoy.filters.http.jwt_authn": { jwt: claims, jwt_header: { alg: "ES256" }, failed: "text", list: [claims] },
          "somebody.else": { jwt: { iss: "https://forged", sub: "admin" } },
        },
      },
    },
  });
  t.same(verifiedClaims, [claims]);
});

const HASH = "c3".repeat(32);
const xfcc = (value: string, peer: string, hops: readonly RegExp[]) =>
  read(
    {
      attributes: { source: { principal: peer }, request: { http: { headers: { "x-forwarded-client-cert": value } } } },
    },
    hops,
  );

t.test("x-forwarded-client-cert is believed from a listed hop only", async (t) => {
  const value = `By=spiffe://td/edge;Hash=${HASH};URI=spiffe://td/web`;
  t.match(xfcc(value, "spiffe://td/edge", [EDGE]).certificate, { via: "xfcc", spiffeId: "spiffe://td/web" });
  t.equal(xfcc(value, "spiffe://td/other", [EDGE]).certificate, undefined);
  t.equal(xfcc(value, "spiffe://td/edge", []).certificate, undefined);
  t.equal(xfcc(value, "", [/.*/]).certificate, undefined, "a peer without a name is nobody's hop");
});

t.test("one that cannot be read is a fault, from others it is not even looked at", async (t) => {
  t.match(xfcc('URI="open', "spiffe://td/edge", [EDGE]).faults, [/unclosed quote/]);
  t.match(xfcc("Hash=zz;URI=spiffe://td/web", "spiffe://td/edge", [EDGE]).faults, [/does not tell a certificate/]);
  t.same(xfcc('URI="open', "spiffe://td/other", [EDGE]).faults, []);
});

t.test("what is kept of an overlong text does not hold on to the rest", async (t) => {
  const long = (text: string): string => `${text}${"x".repeat(100_000)}`;
  const cases: Record<string, (text: string) => ReadRequest> = {
    path: (text) => http({ path: `/${text}` }),
    query: (text) => http({ path: `/orders/of/somebody?${text}` }),
    host: (host) => http({ host }),
    method: (method) => http({ method }),
    agent: (text) => http({ headers: { "user-agent": text } }),
    "request id": (text) => http({ headers: { "x-request-id": text } }),
    "peer's name": (principal) => http({}, { principal }),
  };
  for (const [name, make] of Object.entries(cases)) {
    const kept: unknown[] = [];
    const before = await heapAfterCollection();
    for (let i = 0; i < 100; i++) {
      const { headers: _headers, target: _target, ...facts } = make(Buffer.from(long(String(i))).toString());
      kept.push(facts);
    }
    const grown = (await heapAfterCollection()) - before;
    t.ok(grown < 3_000_000, `${name}: ${kept.length} requests of 100 KB hold ${grown} bytes`);
  }
});

async function heapAfterCollection(): Promise<number> {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  await new Promise((resolve) => setImmediate(resolve));
  collect();
  return process.memoryUsage().heapUsed;
}
