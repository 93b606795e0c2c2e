/** Who may change something over the local API: holders of the token, and whoever reaches the private socket. */

import { randomBytes, timingSafeEqual } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { OperatingError } from "../model/errors.ts";

const TOKEN_CHARS_MIN = 16;

/**
 * The token in `path`; a new random one is written there when the file is missing (mode 0600).
 * @throws {OperatingError} ERR_CONFIG_INVALID when it holds too short a token or cannot be read or made
 */
export function loadToken(path: string): string {
  let token: string;
  try {
    token = readFileSync(path, "utf8").trim();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") {
      throw new OperatingError("ERR_CONFIG_INVALID", `api-token-file ${path}: cannot be read`, { cause: error });
    }
    token = randomBytes(24).toString("base64url");
    try {
      mkdirSync(dirname(path), { recursive: true });
      writeFileSync(path, `${token}\n`, { mode: 0o600, flag: "wx" });
    } catch (cause) {
      throw new OperatingError("ERR_CONFIG_INVALID", `api-token-file ${path}: cannot be made`, { cause });
    }
  }
  if (token.length < TOKEN_CHARS_MIN) {
    throw new OperatingError(
      "ERR_CONFIG_INVALID",
      `api-token-file ${path}: expected at least ${TOKEN_CHARS_MIN} characters, got ${token.length}`,
    );
  }
  return token;
}

/** Compares an `Authorization: Bearer` value with the token in constant time. */
export function holdsToken(authorization: string | null, token: string | undefined): boolean {
  if (token === undefined || authorization === null) return false;
  const given = Buffer.from(/^bearer +(\S+)$/i.exec(authorization)?.[1] ?? "");
  const wanted = Buffer.from(token);
  return given.length === wanted.length && timingSafeEqual(given, wanted);
}

/**
 * Whether a browser page of another site may be behind the request: its `Host` is no loopback or literal address
 * (DNS rebinding), or its `Origin` is another one (cross-site request).
 */
export function isForeign(host: string | undefined, origin: string | undefined): boolean {
  const name = (host ?? "").replace(/:\d+$/, "").toLowerCase();
  const local = name === "" || name === "localhost" || /^[\d.]+$/.test(name) || name.startsWith("[");
  if (!local) return true;
  return origin !== undefined && origin !== `http://${host}`;
}
