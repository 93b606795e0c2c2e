/** Operating errors: expected, survivable, and reported with a stable code. */

/** Every stable code this program can report. Codes are public: add, never rename. */
export type ErrorCode =
  | "ERR_USAGE"
  | "ERR_CONFIG_INVALID"
  | "ERR_POLICY_INVALID"
  | "ERR_POLICY_UNREADABLE"
  | "ERR_BUNDLE_INVALID"
  | "ERR_BUNDLE_SIGNATURE"
  | "ERR_BUNDLE_ROLLBACK"
  | "ERR_BUNDLE_NAME"
  | "ERR_BUNDLE_EXPIRED"
  | "ERR_BUNDLE_TOO_LARGE"
  | "ERR_BUNDLE_UNREACHABLE"
  | "ERR_KEY_INVALID"
  | "ERR_CASE_INVALID"
  | "ERR_CONTROL"
  | "ERR_DATA_INVALID"
  | "ERR_DATA_UNREADABLE"
  | "ERR_STATE_INVALID"
  | "ERR_STATE_UNWRITABLE"
  | "ERR_LISTEN"
  | "ERR_REPLAY_ROW"
  | "ERR_JWKS"
  | "ERR_API"
  | "ERR_API_UNAUTHORIZED"
  | "ERR_LOCK_INVALID"
  | "ERR_NOT_FOUND"
  | "ERR_KUBERNETES";

/** An operating error. Its message says where, what was found and what was wanted; it never holds a secret. */
export class OperatingError extends Error {
  override readonly name = "OperatingError";
  readonly code: ErrorCode;
  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}
