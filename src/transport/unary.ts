/** The seam between the transport and what it serves: one unary gRPC method, by bytes. */

/** Serves one unary gRPC method by bytes: message in, message out, neither copied more often than must be. */
export interface UnaryMethod {
  /** `/package.Service/Method` */
  readonly path: string;
  /**
   * @param message the request message without gRPC framing; a view that is valid only until this call returns or its promise settles
   * @param timeoutMs what is left by the caller's `grpc-timeout`, or undefined
   * @returns the response message. Returned as it is, it may be a view that is valid only until the next call, also of
   *   another method: whoever calls takes its bytes before it calls anything else. A promise's message must stay as it is
   *   from then on, because others are answered before it is seen. A GrpcFailure thrown (or rejected with) gives its status;
   *   anything else INTERNAL
   */
  readonly handle: (message: Uint8Array, timeoutMs: number | undefined) => Uint8Array | Promise<Uint8Array>;
}

/** Codes of google.rpc.Code that the transport itself answers with. */
export const GrpcCode = {
  deadlineExceeded: 4,
  resourceExhausted: 8,
  unimplemented: 12,
  internal: 13,
} as const;

/** A status other than OK: its message is sent to the caller, so it must hold nothing secret. */
export class GrpcFailure extends Error {
  override readonly name = "GrpcFailure";
  /** google.rpc.Code, 1..16 */
  readonly code: number;

  /** @throws {RangeError} when `code` is not a whole number of 1..16: a bug in the caller */
  constructor(code: number, message: string) {
    super(message);
    if (!Number.isInteger(code) || code < 1 || code > 16) throw new RangeError(`gRPC code must be 1..16, got ${code}`);
    this.code = code;
  }
}
