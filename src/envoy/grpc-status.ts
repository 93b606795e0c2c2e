/** Writes `google.rpc.Status` with one `google.rpc.ErrorInfo`: what `grpc-status-details-bin` holds. */

import { WireWriter } from "./wire-writer.ts";

/** google/rpc/status.proto, google/rpc/error_details.proto, google/protobuf/any.proto: fields that hold bytes. */
const TAG = {
  status: { code: 0x08, message: 0x12, details: 0x1a },
  any: { typeUrl: 0x0a, value: 0x12 },
  errorInfo: { reason: 0x0a, domain: 0x12, metadata: 0x1a },
  entry: { key: 0x0a, value: 0x12 },
} as const;

const ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo";

export interface ErrorStatus {
  /** google.rpc.Code; not OK. */
  readonly code: number;
  readonly message: string;
  readonly reason: string;
  readonly domain: string;
  readonly metadata: Readonly<Record<string, string>>;
}

const writer = new WireWriter();

/** Bytes of the `google.rpc.Status`. */
export function writeErrorStatus({ code, message, reason, domain, metadata }: ErrorStatus): Buffer {
  writer.begin();
  for (const [key, value] of Object.entries(metadata).reverse()) {
    const before = writer.written;
    writer.text(TAG.entry.value, value);
    writer.text(TAG.entry.key, key);
    writer.close(TAG.errorInfo.metadata, before);
  }
  writer.text(TAG.errorInfo.domain, domain);
  writer.text(TAG.errorInfo.reason, reason);
  writer.close(TAG.any.value, 0);
  writer.text(TAG.any.typeUrl, ERROR_INFO);
  writer.close(TAG.status.details, 0);
  if (message !== "") writer.text(TAG.status.message, message);
  writer.varint(code);
  writer.byte(TAG.status.code);
  return writer.finish();
}
