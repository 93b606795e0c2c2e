/** `sallyport webhook` as a process, with files mounted as in a Pod, and an API server's calls to it. */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { request } from "node:https";
import type { TLSSocket } from "node:tls";
import { fileURLToPath } from "node:url";
import type { Test } from "tap";
import { createPki, type Pki } from "../../scripts/pki.ts";
import type { JsonObject } from "../../src/injector/injection.ts";
import { eventually } from "../support/guarded.ts";
import { type Mount, mount } from "./mount.ts";

const MAIN = fileURLToPath(new URL("../../dist/main.js", import.meta.url));
export const SERVICE = "sallyport-webhook.sallyport-system.svc";

export interface Answer {
  readonly status: number;
  readonly body: JsonObject;
  /** SHA-256 of the certificate that was met, lower-case hex; empty on a resumed session. */
  readonly fingerprint: string;
}

export interface WebhookProcess {
  readonly child: ChildProcess;
  readonly pki: Pki;
  readonly tls: Mount;
  readonly injector: Mount;
  readonly address: string;
  readonly health: string;
  log(): string;
  /** Posts a review as an API server does: to the Service's name, with its parameter. */
  review(body: JsonObject): Promise<Answer>;
  /** A new pair for the Service's name, as the Secret's files. */
  pair(): Promise<{ readonly files: Record<string, string>; readonly sha256: string }>;
  ready(): Promise<{ readonly status: number; readonly body: Readonly<Record<string, unknown>> }>;
  metric(name: string): Promise<number>;
  /** Sends SIGTERM and resolves with the exit status. */
  stop(): Promise<number | null>;
}

export interface ProcessOptions {
  /** The InjectorConfig's text. */
  readonly config: string;
  readonly flags?: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
}

export async function startProcess(t: Test, options: ProcessOptions): Promise<WebhookProcess> {
  const pki = await createPki("webhook");
  const pair = async () => {
    const { certPem, keyPem, sha256 } = await pki.issue({ dns: [SERVICE] });
    return { files: { "tls.crt": certPem, "tls.key": keyPem }, sha256 };
  };
  const tls = await mount(t, (await pair()).files);
  const injector = await mount(t, { "injector.yaml": options.config });
  const flags = [
    ...["--injector-config", injector.path("injector.yaml")],
    ...["--tls-cert-file", tls.path("tls.crt"), "--tls-key-file", tls.path("tls.key")],
    ...["--webhook-address", "127.0.0.1:0", "--health-address", "127.0.0.1:0", "--drain-delay", "0s"],
    ...(options.flags ?? []),
  ];
  const child = spawn(process.execPath, [MAIN, "webhook", ...flags], {
    stdio: ["ignore", "ignore", "pipe"],
    env: { ...options.environment },
  });
  let log = "";
  child.stderr.setEncoding("utf8");
  child.stderr.on("data", (text: string) => {
    log += text;
  });
  const stop = async (): Promise<number | null> => {
    if (child.exitCode === null && child.signalCode === null) {
      const ended = once(child, "exit");
      child.kill("SIGTERM");
      await ended;
    }
    return child.exitCode;
  };
  t.teardown(stop);
  const started = await eventually(async () => {
    if (child.exitCode !== null) throw new Error(`the webhook ended: ${log}`);
    return log.split("\n").find((line) => line.includes('"event":"started"'));
  });
  const { webhook, health } = JSON.parse(started) as { readonly webhook: string; readonly health: string };
  return {
    child,
    pki,
    tls,
    injector,
    address: webhook,
    health,
    log: () => log,
    review: (body) => post(webhook, pki.caPem, body),
    pair,
    ready: async () => {
      const response = await fetch(`http://${health}/readyz`);
      return { status: response.status, body: (await response.json()) as Record<string, unknown> };
    },
    metric: async (name) => {
      const text = await (await fetch(`http://${health}/metrics`)).text();
      const line = text.split("\n").find((candidate) => candidate.startsWith(`${name} `));
      if (line === undefined) throw new Error(`no metric ${name}`);
      return Number(line.slice(name.length));
    },
    stop,
  };
}

function post(address: string, ca: string, body: JsonObject): Promise<Answer> {
  const port = Number(address.slice(address.lastIndexOf(":") + 1));
  return new Promise((resolve, reject) => {
    const call = request(
      {
        host: "127.0.0.1",
        port,
        ca,
        servername: SERVICE,
        agent: false,
        method: "POST",
        path: "/inject?timeout=5s",
        headers: { "content-type": "application/json" },
      },
      (response) => {
        const certificate = (response.socket as TLSSocket).getPeerX509Certificate();
        let text = "";
        response.setEncoding("utf8");
        response.on("data", (piece: string) => {
          text += piece;
        });
        response.on("error", reject);
        response.on("end", () =>
          resolve({
            status: response.statusCode ?? 0,
            body: JSON.parse(text) as JsonObject,
            fingerprint: certificate?.fingerprint256.replaceAll(":", "").toLowerCase() ?? "",
          }),
        );
      },
    );
    call.on("error", reject);
    call.end(JSON.stringify(body));
  });
}
