/** `sallyport doctor`: is this installation as it should be? */

import { readFileSync } from "node:fs";
import { type Timestamp, timestampDate } from "@bufbuild/protobuf/wkt";
import { credentials, Client as GrpcClient } from "@grpc/grpc-js";
import { parse } from "yaml";
import { defaultPolicy } from "../bundle/default-policy.ts";
import { type LoadOptions, loadPolicy } from "../bundle/load.ts";
import { formatProblem } from "../bundle/problem.ts";
import { shippedNetworks } from "../bundle/shipped-networks.ts";
import { type Finding, inspectEnvoy } from "../envoy/inspect.ts";
import type { GetStatusResponse } from "../gen/sallyport/local/v1/local_pb.ts";
import { OperatingError } from "../model/errors.ts";
import type { Policy } from "../model/policy.ts";
import type { Mode } from "../model/verdict.ts";
import { readConfig, type ServeConfig } from "../server/config.ts";
import { readKeyFile } from "../server/policy-trust.ts";
import { type Command, EXIT_BAD, EXIT_GOOD } from "./command.ts";
import { API_FLAGS, calling, localClient } from "./local-client.ts";
import { serveCommand, sourcesOf } from "./serve.ts";

const TIMEOUT_MS = 3_000;

export const doctorCommand: Command = {
  name: "doctor",
  arguments: "",
  positionals: [0, 0],
  summary: "Check the settings, the policy, a running sidecar, and Envoy's configuration for what makes them disagree.",
  flags: [
    ...serveCommand.flags.filter(({ name }) => name !== "api-token-file"),
    { name: "envoy-config", value: "FILE", summary: "Look through this Envoy configuration (YAML or JSON)." },
    {
      name: "envoy-admin",
      value: "HOST:PORT",
      summary: "Look through the configuration of a running Envoy, by its admin address.",
    },
    { name: "offline", value: undefined, summary: "Do not look for a running sidecar." },
    ...API_FLAGS,
  ],
  run: async (invocation, terminal) => {
    const findings: Finding[] = [];
    const read = readConfig(await sourcesOf(invocation, terminal));
    if (!read.ok) {
      for (const problem of read.problems) findings.push({ level: "bad", about: "settings", message: problem });
      return report(findings, invocation.json, terminal.out);
    }
    findings.push({ level: "good", about: "settings", message: "read" });
    const policy = await policyFor(read.config, findings);
    let running: Mode | undefined;
    if (!invocation.switches.has("offline")) {
      running = await askSidecar(invocation, terminal, findings);
      await askHealth(read.config.streamsAddress, findings);
    }
    const envoy = await envoyConfig(invocation.values["envoy-config"], invocation.values["envoy-admin"]);
    if (envoy !== undefined) {
      // What a running sidecar does counts for more than what these settings would make of it.
      const mode = running ?? (read.config.mode === "observe" ? "observe" : (policy?.mode ?? "enforce"));
      findings.push(...inspectEnvoy(envoy, { mode, believesXfcc: (policy?.identity.xfccHops.length ?? 0) > 0 }));
    }
    return report(findings, invocation.json, terminal.out);
  },
};

async function policyFor(config: ServeConfig, findings: Finding[]): Promise<Policy | undefined> {
  const { policy: place, control, bundleKeys, bundleName } = config;
  const url = place?.kind === "url" ? place.url : undefined;
  const from = control?.address ?? (url === undefined ? undefined : `${url.origin}${url.pathname}`);
  if (from !== undefined) {
    findings.push({
      level: "good",
      about: "policy",
      message: `comes from ${from}: only a running sidecar can say more`,
    });
    return undefined;
  }
  if (place?.kind !== "path") {
    findings.push({ level: "good", about: "policy", message: "none given: the shipped one is in force" });
    return defaultPolicy(shippedNetworks());
  }
  const { path } = place;
  const loaded = await loadPolicy(path, { ...(await keysFor(bundleKeys)), bundleName });
  if (!loaded.ok) {
    for (const problem of loaded.problems)
      findings.push({ level: "bad", about: "policy", message: formatProblem(problem) });
    return undefined;
  }
  findings.push({ level: "good", about: "policy", message: `${path} ${loaded.policy.revision}` });
  return loaded.policy;
}

/** @throws {OperatingError} ERR_KEY_INVALID */
async function keysFor(path: string | undefined): Promise<LoadOptions> {
  if (path === undefined) return { nowMs: Date.now() };
  return { nowMs: Date.now(), trust: { root: await readKeyFile(path), accepted: undefined } };
}

async function askSidecar(
  invocation: Parameters<typeof localClient>[0],
  terminal: Parameters<typeof localClient>[1],
  findings: Finding[],
): Promise<Mode | undefined> {
  try {
    const status = await calling((options) => localClient(invocation, terminal).getStatus({}, options));
    findings.push({
      level: "good",
      about: "sidecar",
      message: `version ${status.version}, policy ${status.policyRevision}, mode ${status.mode}, ${status.checks} checks`,
    });
    const isSilent = ["ERR_BUNDLE_UNREACHABLE", "ERR_CONTROL"].includes(status.policyProblemCode);
    for (const problem of status.policyProblems) {
      findings.push({
        level: "bad",
        about: "sidecar policy",
        message: `${isSilent ? "source does not answer" : "latest refused"}, last good in force: ${problem}`,
      });
    }
    if (status.policyFreshness !== "" && status.policyFreshness !== "fresh") {
      findings.push({ level: "bad", about: "sidecar policy", message: freshnessText(status) });
    }
    return status.mode === "observe" ? "observe" : "enforce";
  } catch (error) {
    const message = error instanceof OperatingError ? error.message : String(error);
    findings.push({ level: "bad", about: "sidecar", message });
    return undefined;
  }
}

function freshnessText({
  policyFreshness,
  policyConfirmedAt,
  policyExpiresAt,
  policySource,
}: GetStatusResponse): string {
  const at = (time: Timestamp | undefined): string =>
    time === undefined ? "never since its start" : timestampDate(time).toISOString();
  return policyFreshness === "expired"
    ? `past its time since ${at(policyExpiresAt)}: ${policySource} should bring a newer one`
    : `stale: last confirmed by ${policySource} ${at(policyConfirmedAt)}`;
}

/** Asks `grpc.health.v1` on the streams address, as Envoy or a kubelet would. */
async function askHealth(address: string, findings: Finding[]): Promise<void> {
  const client = new GrpcClient(address, credentials.createInsecure());
  // HealthCheckRequest without a service is empty; SERVING in HealthCheckResponse is field 1 with value 1.
  const answer = await new Promise<Buffer | undefined>((resolve) => {
    client.makeUnaryRequest(
      "/grpc.health.v1.Health/Check",
      (bytes: Buffer) => bytes,
      (bytes: Buffer) => bytes,
      Buffer.alloc(0),
      { deadline: Date.now() + TIMEOUT_MS },
      (_error, response) => resolve(response),
    );
  });
  client.close();
  const serving = answer !== undefined && answer.length >= 2 && answer[0] === 8 && answer[1] === 1;
  findings.push(
    serving
      ? { level: "good", about: "gRPC health", message: `${address} is serving` }
      : { level: "bad", about: "gRPC health", message: `${address} does not answer SERVING` },
  );
}

async function envoyConfig(file: string | undefined, admin: string | undefined): Promise<unknown> {
  if (file !== undefined) {
    try {
      return parse(readFileSync(file, "utf8"));
    } catch (cause) {
      const why = cause instanceof Error ? cause.message.split("\n")[0] : String(cause);
      throw new OperatingError("ERR_DATA_UNREADABLE", `${file}: expected an Envoy configuration: ${why}`, { cause });
    }
  }
  if (admin === undefined) return undefined;
  try {
    const response = await fetch(`http://${admin}/config_dump`, { signal: AbortSignal.timeout(TIMEOUT_MS) });
    return await response.json();
  } catch (cause) {
    throw new OperatingError("ERR_DATA_UNREADABLE", `${admin}: expected Envoy's admin interface`, { cause });
  }
}

const SIGNS = { good: "ok  ", warning: "warn", bad: "BAD " } as const;

function report(findings: readonly Finding[], json: boolean, out: (line: string) => void): number {
  if (json) out(JSON.stringify(findings));
  else for (const { level, about, message } of findings) out(`${SIGNS[level]}  ${about}: ${message}`);
  return findings.some(({ level }) => level === "bad") ? EXIT_BAD : EXIT_GOOD;
}
