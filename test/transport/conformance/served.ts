/** The serving process on each of its transports for Check, and the tools that try it from outside. */

import { execFile } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Test } from "tap";
import { runCommand, type SidecarProcess, startSidecarProcess } from "../../../scripts/demo/sidecar.ts";
import { type FoundH2Tool, findH2Tool, type H2Tool } from "../../../scripts/find-h2-tools.ts";
import { skipUnless } from "../../support/skip.ts";

/** A value of `--ext-authz-transport`. */
export type TransportName = "auto" | "grpc-js";

const FLAG = "--ext-authz-transport";
const RUN_MS_MAX = 120_000;
const OUTPUT_BYTES_MAX = 64 * 1024 * 1024;

/** What this build of the program offers; before there was a choice, grpc-js served everything. */
export async function transports(): Promise<readonly TransportName[]> {
  const { out } = await runCommand(["serve", "--help"]);
  return out.includes(FLAG) ? ["auto", "grpc-js"] : ["grpc-js"];
}

/** Flags that choose `transport` where there is a choice. */
export async function transportFlags(transport: TransportName): Promise<readonly string[]> {
  return (await transports()).length > 1 ? [FLAG, transport] : [];
}

/** A serving process on `transport` with files of its own; both are gone when `t` is over. */
export async function serve(t: Test, transport: TransportName): Promise<SidecarProcess> {
  const folder = await mkdtemp(join(tmpdir(), "sallyport-conformance-"));
  const sidecar = await startSidecarProcess({
    name: "sidecar",
    folder,
    flags: await transportFlags(transport),
  }).catch(async (error: unknown) => {
    await rm(folder, { recursive: true, force: true });
    throw error;
  });
  t.teardown(async () => {
    await sidecar.stop();
    await rm(folder, { recursive: true, force: true });
  });
  return sidecar;
}

/** A tool, or how to skip the tests that need it. */
export async function toolOrSkip(
  tool: H2Tool,
): Promise<{ readonly found: FoundH2Tool | undefined; readonly options: { readonly skip?: string } }> {
  let why = "";
  const found = await findH2Tool(tool, { install: true }).catch((error: Error) => {
    why = `${tool}: ${error.message.trim().split("\n")[0]}`;
    return undefined; // the tests that need it are skipped, or fail where skips are forbidden
  });
  return { found, options: skipUnless(found !== undefined, why) };
}

export interface ToolRun {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** @throws {Error} when the tool does not end within two minutes */
export function runTool({ path, libraries }: FoundH2Tool, args: readonly string[]): Promise<ToolRun> {
  const loading = libraries.length === 0 ? {} : { LD_LIBRARY_PATH: libraries.join(":") };
  return new Promise((resolve, reject) => {
    execFile(
      path,
      args,
      { timeout: RUN_MS_MAX, maxBuffer: OUTPUT_BYTES_MAX, env: { ...process.env, ...loading } },
      (error, out, err) => {
        const code = error === null ? 0 : error.code;
        if (typeof code === "number") resolve({ code, out, err });
        else reject(new Error(`${path} did not end by itself: ${error?.message}\n${out.slice(-2_000)}`));
      },
    );
  });
}

export const CHECK_PATH = "/envoy.service.auth.v3.Authorization/Check";
