/** Tests how authorities of trust domains are read. */

import { exportJWK, generateKeyPair } from "jose";
import t from "tap";
import { createPki } from "../../scripts/pki.ts";
import { readAnchors } from "../../src/bundle/anchors.ts";

const { caPem, issue } = await createPki();
const leaf = await issue({ spiffeId: "spiffe://a.example/w" });
const x5c = (pem: string): string[] => [pem.replace(/-----[^-]+-----|\s/g, "")];
const { publicKey, privateKey } = await generateKeyPair("ES256", { extractable: true });
const jwk = { ...(await exportJWK(publicKey)), kid: "k1", use: "jwt-svid" };
const ca = { use: "x509-svid", kty: "EC", x5c: x5c(caPem) };
const bundle = (...keys: object[]): string => JSON.stringify({ keys, spiffe_sequence: 1, spiffe_refresh_hint: 60 });

const GOOD = [
  { name: "PEM", text: caPem, certificates: 1, jwt: false },
  { name: "PEM with text around it", text: `# a\n${caPem}\n# b\n${caPem}`, certificates: 2, jwt: false },
  { name: "a SPIFFE bundle", text: bundle(ca, jwk), certificates: 1, jwt: true },
  { name: "keys for JWT-SVIDs only", text: bundle(jwk), certificates: 0, jwt: true },
  { name: "keys of an unknown use besides", text: bundle(ca, { use: "wit-svid" }, {}), certificates: 1, jwt: false },
];
for (const { name, text, certificates, jwt } of GOOD) {
  t.test(`authorities are read from ${name}`, async (t) => {
    const read = readAnchors(text);
    t.ok(read.ok);
    if (!read.ok) return;
    t.equal(read.authorities.certificates.length, certificates);
    t.equal(read.authorities.jwtKeys !== undefined, jwt);
    if (certificates > 0) t.equal(read.authorities.certificates[0]?.subject, "CN=Sallyport throw-away CA");
  });
}

const BAD = [
  { name: "nothing", text: "", got: /something other than certificates/ },
  { name: "a leaf", text: leaf.certPem, got: /no authority's/ },
  { name: "a private key", text: `${caPem}${leaf.keyPem}`, got: /a private key/ },
  { name: "a bundle without keys", text: bundle(), got: /no authorities/ },
  { name: "JSON of another kind", text: "{}", got: /without a list of `keys`/ },
  {
    name: "two certificates in one key",
    text: bundle({ ...ca, x5c: [...x5c(caPem), ...x5c(caPem)] }),
    got: /keys\[0\] without exactly one/,
  },
  { name: "a key for JWT-SVIDs without its id", text: bundle({ ...jwk, kid: undefined }), got: /without a `kid`/ },
  {
    name: "a private key for JWT-SVIDs",
    text: bundle({ ...(await exportJWK(privateKey)), kid: "k", use: "jwt-svid" }),
    got: /no public RSA or EC key/,
  },
];
for (const { name, text, got } of BAD) {
  t.test(`as authorities are refused: ${name}`, async (t) => {
    const read = readAnchors(text);
    t.notOk(read.ok);
    if (!read.ok) t.match(read.got, got);
  });
}
