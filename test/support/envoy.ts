/** Envoy on the shipped configurations, with a throw-away PKI, for tests. */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createPki, type Issued, type Issuer, type Pki, TRUST_DOMAIN, writeCertDir } from "../../scripts/pki.ts";

export { type Edits, type RunningEnvoy, startEnvoy } from "../../scripts/run-envoy.ts";

export interface CertDir {
  /** For `edits.certDir`. */
  readonly path: string;
  readonly pki: Pki;
  /** A caller's certificate for `spiffe://shop.example/NAME`. */
  caller(name: string): Promise<Issued>;
  remove(): Promise<void>;
}

/**
 * A directory with all files that the shipped configurations name under `certs/`.
 * @param issuer whose keys go into `jwks.json`; without one it holds no keys
 */
export async function makeCertDir(issuer?: Issuer): Promise<CertDir> {
  const pki = await createPki();
  const path = await mkdtemp(join(tmpdir(), "sallyport-certs-"));
  await writeCertDir(path, pki, issuer);
  return {
    path,
    pki,
    caller: (name) => pki.issue({ spiffeId: `spiffe://${TRUST_DOMAIN}/${name}` }),
    remove: () => rm(path, { recursive: true, force: true }),
  };
}
