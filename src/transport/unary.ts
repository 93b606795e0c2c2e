/** The seam of all transports: unary gRPC methods by bytes. */

/** Serves one unary gRPC method by bytes: message in, message out. */
export interface UnaryMethod {
  /** `/package.Service/Method` */
  readonly path: string;
  /**
   * @param message the request message without gRPC framing; a view that is valid only until this call returns or its
   *   promise settles
   * @param timeoutMs what is left by the caller's `grpc-timeout`; `undefined`: no deadline
   * @returns the response message; a {@link GrpcFailure} thrown or rejected with gives its status, anything else INTERNAL
   */
  readonly handle: (message: Uint8Array, timeoutMs: number | undefined) => Uint8Array | Promise<Uint8Array>;
}

/** Fails a call with a status of its own; the message is sent to the caller. */
export class GrpcFailure extends Error {
  override readonly name = "GrpcFailure";
  /** google.rpc.Code, 1 to 16. */
  readonly code: number;

  constructor(code: number, message: string) {
    super(message);
    this.code = code;
  }
}
