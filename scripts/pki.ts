/** Usage: tsx scripts/pki.ts DIRECTORY   Writes throw-away certificates and keys, such as the shipped configurations name. */

import "reflect-metadata";
import { createHash, randomBytes, randomUUID, webcrypto } from "node:crypto";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import * as x509 from "@peculiar/x509";
import { exportJWK, generateKeyPair, type JSONWebKeySet, SignJWT } from "jose";

const KEY = { name: "ECDSA", namedCurve: "P-256" };
const SIGNATURE = { name: "ECDSA", hash: "SHA-256" };
const DAY_MS = 86_400_000;
const HOUR_SECONDS = 3_600;
/** The trust domain that the shipped configurations name. */
export const TRUST_DOMAIN = "shop.example";
/** The token issuer that `envoy/jwt.yaml` names. */
export const ISSUER = "https://issuer.example";
/** Both ends' clocks may differ a little. */
const BACKDATED_MS = 60_000;

export interface CertificateOptions {
  /** The one URI SAN. */
  readonly spiffeId?: string | undefined;
  readonly dns?: readonly string[] | undefined;
  readonly ips?: readonly string[] | undefined;
  /** From `notBefore` on; default one day. */
  readonly ttlMs?: number | undefined;
  /** Default one minute ago. */
  readonly notBefore?: Date | undefined;
}

export interface Issued {
  readonly certPem: string;
  /** PKCS #8. Secret. */
  readonly keyPem: string;
  /** SHA-256 of the DER, lower-case hex. */
  readonly sha256: string;
}

export interface Pki {
  readonly caPem: string;
  /** A leaf for both ends of TLS, with the key usage that X509-SVID wants. */
  issue(options: CertificateOptions): Promise<Issued>;
}

/** A fresh authority with an EC P-256 key; call it twice for one that nobody trusts. */
export async function createPki(name = "Sallyport throw-away CA"): Promise<Pki> {
  const keys = await generateKeys();
  const notBefore = new Date(Date.now() - 2 * BACKDATED_MS);
  const ca = await x509.X509CertificateGenerator.createSelfSigned({
    name: `CN=${name}`,
    serialNumber: serial(),
    notBefore,
    notAfter: new Date(notBefore.getTime() + 30 * DAY_MS),
    signingAlgorithm: SIGNATURE,
    keys,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return {
    caPem: pem(ca),
    issue: (options) => issue(ca, keys.privateKey, options),
  };
}

async function issue(ca: x509.X509Certificate, caKey: webcrypto.CryptoKey, options: CertificateOptions) {
  const keys = await generateKeys();
  const notBefore = options.notBefore ?? new Date(Date.now() - BACKDATED_MS);
  const names: x509.JsonGeneralName[] = [
    ...(options.spiffeId === undefined ? [] : [{ type: "url" as const, value: options.spiffeId }]),
    ...(options.dns ?? []).map((value) => ({ type: "dns" as const, value })),
    ...(options.ips ?? []).map((value) => ({ type: "ip" as const, value })),
  ];
  const certificate = await x509.X509CertificateGenerator.create({
    subject: "O=Sallyport throw-away",
    issuer: ca.subject,
    serialNumber: serial(),
    notBefore,
    notAfter: new Date(notBefore.getTime() + (options.ttlMs ?? DAY_MS)),
    signingAlgorithm: SIGNATURE,
    publicKey: keys.publicKey,
    signingKey: caKey,
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth, x509.ExtendedKeyUsage.clientAuth]),
      await x509.AuthorityKeyIdentifierExtension.create(ca),
      ...(names.length === 0 ? [] : [new x509.SubjectAlternativeNameExtension(names)]),
    ],
  });
  const pkcs8 = Buffer.from(await webcrypto.subtle.exportKey("pkcs8", keys.privateKey));
  return {
    certPem: pem(certificate),
    keyPem: x509.PemConverter.encode(pkcs8, "PRIVATE KEY").concat("\n"),
    sha256: createHash("sha256").update(Buffer.from(certificate.rawData)).digest("hex"),
  };
}

async function generateKeys(): Promise<webcrypto.CryptoKeyPair> {
  return await webcrypto.subtle.generateKey(KEY, true, ["sign", "verify"]);
}

/** A positive number: the first bit clear, the first byte not zero. */
function serial(): string {
  const bytes = randomBytes(16);
  bytes[0] = (bytes[0]! & 0x3f) | 0x40;
  return bytes.toString("hex");
}

function pem(certificate: x509.X509Certificate): string {
  return `${certificate.toString("pem")}\n`;
}

export interface TokenOptions {
  readonly subject: string;
  /** Default `sallyport`. */
  readonly audience?: string | readonly string[] | undefined;
  /** From `issuedAt` on; default 300. */
  readonly ttlSeconds?: number | undefined;
  /** Default now. */
  readonly issuedAt?: Date | undefined;
  /** Added to or overriding `iss`, `sub`, `aud`, `iat`, `exp` and `jti`. */
  readonly claims?: Readonly<Record<string, unknown>> | undefined;
}

export interface Issuer {
  readonly issuer: string;
  /** Public keys only. */
  readonly jwks: JSONWebKeySet;
  /** An ES256 token. Secret. */
  token(options: TokenOptions): Promise<string>;
}

/** A token issuer with one fresh key. */
export async function createIssuer(issuer: string): Promise<Issuer> {
  const { publicKey, privateKey } = await generateKeyPair("ES256");
  const kid = randomUUID();
  return {
    issuer,
    jwks: { keys: [{ ...(await exportJWK(publicKey)), kid, alg: "ES256", use: "sig" }] },
    token: ({ subject, audience = "sallyport", ttlSeconds = 300, issuedAt = new Date(), claims = {} }) => {
      const iat = Math.floor(issuedAt.getTime() / 1_000);
      const aud = typeof audience === "string" ? audience : [...audience];
      const payload = { iss: issuer, sub: subject, aud, iat, exp: iat + ttlSeconds, jti: randomUUID(), ...claims };
      return new SignJWT(payload).setProtectedHeader({ alg: "ES256", kid, typ: "JWT" }).sign(privateKey);
    },
  };
}

/**
 * Writes `ca.crt`, `server.crt`, `server.key` and `jwks.json`: all that the shipped configurations name under `certs/`.
 * @param issuer whose keys the key set holds; without one it is empty
 */
export async function writeCertDir(directory: string, pki: Pki, issuer?: Issuer): Promise<void> {
  await mkdir(directory, { recursive: true });
  await writeFile(join(directory, "ca.crt"), pki.caPem);
  await writeFile(join(directory, "jwks.json"), `${JSON.stringify(issuer?.jwks ?? { keys: [] })}\n`);
  const names = { dns: ["localhost"], ips: ["127.0.0.1"] };
  await writeIssued(directory, "server", await pki.issue({ spiffeId: `spiffe://${TRUST_DOMAIN}/orders`, ...names }));
}

async function writeIssued(directory: string, name: string, issued: Issued): Promise<void> {
  await writeFile(join(directory, `${name}.crt`), issued.certPem);
  await writeFile(join(directory, `${name}.key`), issued.keyPem, { mode: 0o600 });
}

/** A caller, the front proxy and a token that lasts an hour, besides what {@link writeCertDir} writes. */
async function writeSamples(directory: string): Promise<void> {
  const [pki, issuer] = await Promise.all([createPki(), createIssuer(ISSUER)]);
  await writeCertDir(directory, pki, issuer);
  for (const [file, workload] of [
    ["caller", "billing"],
    ["edge", "edge"],
  ] as const) {
    await writeIssued(directory, file, await pki.issue({ spiffeId: `spiffe://${TRUST_DOMAIN}/${workload}` }));
  }
  const token = await issuer.token({ subject: "billing", ttlSeconds: HOUR_SECONDS });
  await writeFile(join(directory, "caller.jwt"), `${token}\n`, { mode: 0o600 });
  await writeFile(join(directory, ".gitignore"), "*\n"); // keys are never committed by mistake
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const directory = process.argv[2];
  if (directory === undefined || directory.startsWith("-")) {
    console.error("usage: tsx scripts/pki.ts DIRECTORY");
    process.exitCode = 2;
  } else {
    await writeSamples(directory);
  }
}
