/** Whether the cluster runs native sidecars, as its API server's version says. */

import { readFile } from "node:fs/promises";
import { request } from "node:https";
import { join } from "node:path";
import { OperatingError } from "../model/errors.ts";

/** Where kubelets mount a Pod's service account. */
export const SERVICE_ACCOUNT_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount";

/** Kubernetes has `restartPolicy: Always` of init containers switched on from 1.29 (KEP-753, beta). */
const NATIVE_SINCE = { major: 1, minor: 29 } as const;

const ANSWER_MS_MAX = 3_000;
const ANSWER_BYTES_MAX = 64 * 1024;
/** A cluster is upgraded now and then. */
const REFRESH_MS = 600_000;
/** As long as the version was never heard. */
const RETRY_MS = 5_000;

export interface KubernetesVersion {
  readonly major: number;
  readonly minor: number;
  /** As the API server says it, such as `v1.34.2`. */
  readonly text: string;
}

/** What to do, and what speaks against relying on it. */
export interface NativeSidecars {
  readonly supported: boolean;
  /** For warnings; `undefined`: none. */
  readonly doubt: string | undefined;
}

/** Asks for `/version`; a service account needs no rights for it (`system:public-info-viewer`). */
export type AskVersion = () => Promise<KubernetesVersion>;

export interface ClusterVersionOptions {
  readonly ask: AskVersion;
  /** Told when the version is heard for the first time or differs from before. */
  readonly onVersion: (version: KubernetesVersion) => void;
  /** Told once per spell of failures. */
  readonly onFailure: (error: OperatingError) => void;
}

/**
 * The API server's version: asked at the start and every ten minutes, answered from memory, the last one kept.
 *
 * Before it was ever heard, ordinary containers are injected: on a cluster with native sidecars they work, if with less
 * order at start and end, whereas a native sidecar on a cluster without them is an init container that never ends,
 * and the Pod hangs.
 */
export class ClusterVersion {
  private readonly options: ClusterVersionOptions;
  private known: KubernetesVersion | undefined;
  private failing = false;
  private waiting: NodeJS.Timeout | undefined;
  private started = false;
  private closed = false;

  constructor(options: ClusterVersionOptions) {
    this.options = options;
  }

  /** Asks, and from then on regularly; nothing when it does so already. Never rejects: not knowing is an answer. */
  async start(): Promise<void> {
    if (this.started) return;
    this.started = true;
    await this.look();
  }

  get version(): KubernetesVersion | undefined {
    return this.known;
  }

  /** For `nativeSidecars: auto`. */
  get native(): NativeSidecars {
    if (this.known !== undefined) return { supported: supportsNative(this.known), doubt: undefined };
    return {
      supported: false,
      doubt: "the API server's version is not known yet: injected as ordinary containers, not native sidecars",
    };
  }

  close(): void {
    this.closed = true;
    clearTimeout(this.waiting);
  }

  private async look(): Promise<void> {
    const { ask, onVersion, onFailure } = this.options;
    try {
      const version = await ask();
      const isNews = this.known?.text !== version.text;
      this.known = version;
      this.failing = false;
      if (isNews && !this.closed) onVersion(version);
    } catch (cause) {
      // Keeps the last version, or falls back to ordinary containers as long as there is none.
      const error =
        cause instanceof OperatingError
          ? cause
          : new OperatingError("ERR_API", `/version: expected an answer, got ${(cause as Error).name}`, { cause });
      if (!this.failing && !this.closed) onFailure(error);
      this.failing = true;
    }
    if (this.closed) return;
    this.waiting = setTimeout(() => void this.look(), this.known === undefined ? RETRY_MS : REFRESH_MS).unref();
  }
}

export function supportsNative({ major, minor }: KubernetesVersion): boolean {
  return major > NATIVE_SINCE.major || (major === NATIVE_SINCE.major && minor >= NATIVE_SINCE.minor);
}

/**
 * Asks the API server that the Pod's surroundings name.
 * @param environment `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`, set in every Pod
 * @param folder of the service account: `ca.crt`, and `token` where one is mounted (it is renewed there: read each time)
 */
export function inClusterVersion(
  environment: Readonly<Record<string, string | undefined>>,
  folder = SERVICE_ACCOUNT_FOLDER,
): AskVersion {
  return async () => {
    const { KUBERNETES_SERVICE_HOST: host, KUBERNETES_SERVICE_PORT: port = "443" } = environment;
    if (host === undefined || host === "") {
      throw new OperatingError(
        "ERR_API",
        "nativeSidecars auto: expected KUBERNETES_SERVICE_HOST as in a Pod, got nothing; set always or never elsewhere",
      );
    }
    const where = `https://${host.includes(":") ? `[${host}]` : host}:${port}/version`;
    const ca = await readFile(join(folder, "ca.crt")).catch((cause) => {
      const message = `${join(folder, "ca.crt")}: expected the API server's authority (automountServiceAccountToken)`;
      throw new OperatingError("ERR_API", message, { cause });
    });
    // Without a token it is asked as nobody in particular, who may know the version too unless that was switched off.
    const token = await readFile(join(folder, "token"), "utf8").catch(() => "");
    const { status, body } = await get({ where, host, port, ca, token: token.trim() });
    if (status !== 200) {
      throw new OperatingError("ERR_API", `${where}: expected 200, got ${status}`);
    }
    return parseVersion(body, where);
  };
}

/**
 * Reads what `/version` says. Providers add to the minor version, as in `29+`.
 * @throws {OperatingError} ERR_API
 */
export function parseVersion(body: string, where: string): KubernetesVersion {
  const said = parseObject(body);
  const [major, minor] = [said.major, said.minor].map((part) => /^\d{1,4}/.exec(String(part))?.[0]);
  if (major === undefined || minor === undefined) {
    throw new OperatingError("ERR_API", `${where}: expected major and minor as numbers, got something else`);
  }
  const text = typeof said.gitVersion === "string" ? said.gitVersion.slice(0, 64) : `v${major}.${minor}`;
  return { major: Number(major), minor: Number(minor), text };
}

function parseObject(text: string): Readonly<Record<string, unknown>> {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
  } catch {
    return {}; // what is no JSON has no version either, which is told
  }
}

interface Asked {
  /** The whole address, for messages. */
  readonly where: string;
  readonly host: string;
  readonly port: string;
  readonly ca: Buffer;
  /** Empty: none. Secret. */
  readonly token: string;
}

function get({ where, host, port, ca, token }: Asked): Promise<{ readonly status: number; readonly body: string }> {
  return new Promise((resolve, reject) => {
    const fail = (cause: Error): void => {
      const why = (cause as NodeJS.ErrnoException).code ?? cause.name;
      reject(new OperatingError("ERR_API", `${where}: expected an answer, got ${why}`, { cause }));
    };
    const call = request(
      {
        host,
        port,
        path: "/version",
        ca,
        minVersion: "TLSv1.2",
        agent: false,
        signal: AbortSignal.timeout(ANSWER_MS_MAX),
        headers: { accept: "application/json", ...(token === "" ? {} : { authorization: `Bearer ${token}` }) },
      },
      (response) => {
        let body = "";
        response.setEncoding("utf8");
        response.on("data", (piece: string) => {
          body += piece;
          if (body.length > ANSWER_BYTES_MAX) call.destroy(new RangeError(`more than ${ANSWER_BYTES_MAX} bytes`));
        });
        response.on("end", () => resolve({ status: response.statusCode ?? 0, body }));
        response.on("error", fail);
      },
    );
    call.on("error", fail);
    call.end();
  });
}
