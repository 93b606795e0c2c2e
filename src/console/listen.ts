/** Puts a server on an address or a Unix socket. */

import { chmodSync, rmSync, statSync } from "node:fs";
import type { Server as HttpServer } from "node:http";
import type { AddressInfo, Server } from "node:net";
import { OperatingError } from "../model/errors.ts";

/**
 * @param address `HOST:PORT` or `unix:PATH`
 * @param mode of the socket's file
 * @returns the address in use, with the real port where 0 was asked for
 * @throws {OperatingError} ERR_LISTEN
 */
export async function listenOn(server: Server, address: string, mode: number): Promise<string> {
  const path = pathOf(address);
  const colon = address.lastIndexOf(":");
  const host = address.slice(0, colon);
  if (path !== undefined) removeDeadSocket(path);
  await new Promise<void>((resolve, reject) => {
    server.once("error", (cause) =>
      reject(new OperatingError("ERR_LISTEN", `cannot listen on ${address}: ${cause.message}`, { cause })),
    );
    if (path !== undefined) server.listen(path, resolve);
    else server.listen(Number(address.slice(colon + 1)), host.replace(/^\[|\]$/g, ""), resolve);
  });
  if (path !== undefined) chmodSync(path, mode);
  const bound = server.address() as AddressInfo | string | null;
  return typeof bound === "object" && bound !== null ? `${host}:${bound.port}` : address;
}

/** A crashed process leaves its socket behind; anything that is no socket is left alone and fails the bind. */
export function removeDeadSocket(path: string): void {
  if (statSync(path, { throwIfNoEntry: false })?.isSocket() === true) rmSync(path);
}

/** The path of a `unix:PATH`. */
export function pathOf(address: string): string | undefined {
  return address.startsWith("unix:") ? address.slice("unix:".length) : undefined;
}

/** Takes no new requests and cuts those under way. */
export function closeHttp(server: HttpServer): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    server.closeAllConnections();
  });
}
