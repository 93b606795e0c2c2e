/** gRPC's framing of a message within a body: a flag, four bytes of length, the message. */

import { readUint32, writeUint32 } from "./frames.ts";
import { GrpcCode } from "./unary.ts";

/** Compressed-flag and length. */
export const MESSAGE_PREFIX_BYTES = 5;

/** Why a body holds no message for a unary method. */
export interface BodyFault {
  readonly code: number;
  readonly message: string;
}

const FAULTS = {
  compressed: { code: GrpcCode.unimplemented, message: "compressed messages are not taken" },
  flag: { code: GrpcCode.internal, message: "unknown message flag" },
  tooLarge: { code: GrpcCode.resourceExhausted, message: "request message is too large" },
  none: { code: GrpcCode.unimplemented, message: "the method takes one message, none was sent" },
  many: { code: GrpcCode.unimplemented, message: "the method takes one message, more were sent" },
  cut: { code: GrpcCode.internal, message: "request message ends before its length" },
} as const;

/**
 * Judges `bytes[start, end)` as the start of a body, as soon as it can be.
 * @returns undefined while it may still become one message
 */
export function faultSoFar(
  bytes: Uint8Array,
  start: number,
  end: number,
  messageBytesMax: number,
): BodyFault | undefined {
  if (end === start) return undefined;
  if (bytes[start] === 1) return FAULTS.compressed;
  if (bytes[start] !== 0) return FAULTS.flag;
  if (end - start < MESSAGE_PREFIX_BYTES) return undefined;
  const messageBytes = readUint32(bytes, start + 1);
  if (messageBytes > messageBytesMax) return FAULTS.tooLarge;
  return end - start > MESSAGE_PREFIX_BYTES + messageBytes ? FAULTS.many : undefined;
}

/** Judges `bytes[start, end)` as a whole body: exactly one message, or why not. */
export function faultOfBody(
  bytes: Uint8Array,
  start: number,
  end: number,
  messageBytesMax: number,
): BodyFault | undefined {
  const fault = faultSoFar(bytes, start, end, messageBytesMax);
  if (fault !== undefined) return fault;
  if (end === start) return FAULTS.none;
  if (end - start < MESSAGE_PREFIX_BYTES) return FAULTS.cut;
  return end - start < MESSAGE_PREFIX_BYTES + readUint32(bytes, start + 1) ? FAULTS.cut : undefined;
}

/** Writes the prefix of an uncompressed message. */
export function writeMessagePrefix(bytes: Uint8Array, at: number, messageBytes: number): void {
  bytes[at] = 0;
  writeUint32(bytes, at + 1, messageBytes);
}
