/** Header blocks of answers. None touches a dynamic table, so that each is encoded once for all connections. */

import { encodeHeaders } from "./hpack-encoder.ts";
import { GrpcCode } from "./unary.ts";

/** Opens an answer that brings a message. */
export const ANSWER_HEADERS: Buffer = encodeHeaders([
  [":status", "200"],
  ["content-type", "application/grpc"],
]);

/** Closes it. */
export const OK_TRAILERS: Buffer = encodeHeaders([["grpc-status", "0"]]);

/** Of a status message once encoded, so that a block always fits the smallest frame a peer may ask for. */
const STATUS_MESSAGE_BYTES_MAX = 2048;

/** A whole answer in one block ("Trailers-Only"). */
export function failureBlock(code: number, message: string): Buffer {
  const encoded = percentEncode(message);
  return encodeHeaders([
    [":status", "200"],
    ["content-type", "application/grpc"],
    ["grpc-status", String(code)],
    ...(encoded === "" ? [] : [["grpc-message", encoded] as const]),
    ...(code === GrpcCode.unimplemented ? [["grpc-accept-encoding", "identity"] as const] : []),
  ]);
}

/** What is no gRPC is told so; the body follows. */
export function httpBlock(status: number, bodyBytes: number): Buffer {
  return encodeHeaders([
    [":status", String(status)],
    ...(status === 405 ? [["allow", "POST"] as const] : []),
    ["content-type", "text/plain"],
    ["content-length", String(bodyBytes)],
  ]);
}

/** The body to it. */
export const HTTP_BODY: Buffer = Buffer.from("This server answers gRPC calls only.\n");

/** gRPC over HTTP/2, "Status-Message": UTF-8, and all but printable ASCII without `%` in percents. Cut when too long. */
export function percentEncode(message: string): string {
  let out = "";
  for (const letter of message) {
    let encoded = "";
    for (const byte of Buffer.from(letter)) {
      encoded +=
        byte >= 0x20 && byte <= 0x7e && byte !== 0x25
          ? String.fromCharCode(byte)
          : `%${byte.toString(16).toUpperCase().padStart(2, "0")}`;
    }
    if (out.length + encoded.length > STATUS_MESSAGE_BYTES_MAX) break;
    out += encoded;
  }
  // A blank at either end would be lost, or refused, on the way.
  return out.replace(/^ | $/g, "%20");
}
