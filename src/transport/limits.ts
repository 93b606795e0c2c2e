/** Every bound of the transport: what it is, why it has its value, and what happens beyond it. */

/** Times are milliseconds, sizes bytes, and all but the server-wide `connectionsMax` hold per connection. */
export interface TransportLimits {
  /** Open sockets of the server; the next is closed at once. */
  readonly connectionsMax: number;
  /**
   * Calls in work, as SETTINGS_MAX_CONCURRENT_STREAMS; the next is refused (REFUSED_STREAM). A call that the client has
   * reset holds its place until its handler settles, so that resets never buy more work than this (CVE-2023-44487).
   */
  readonly streamsMax: number;
  /** One request message; a longer one is answered RESOURCE_EXHAUSTED. */
  readonly messageBytesMax: number;
  /** Memory of all half-received messages together; the call that would exceed it is answered RESOURCE_EXHAUSTED. */
  readonly bodiesBytesMax: number;
  /** SETTINGS_INITIAL_WINDOW_SIZE: what a client may send on one stream before it hears from us. */
  readonly streamWindowBytes: number;
  /** The same for the connection. At least 65,535, which the protocol starts with. */
  readonly connectionWindowBytes: number;
  /** Decoded header list (RFC 9113 section 6.5.2, 32 per field included); a longer one is answered 431 or RESOURCE_EXHAUSTED. */
  readonly headerListBytesMax: number;
  /** Fields of a header list; more are answered like a list too long. */
  readonly headerFieldsMax: number;
  /** Encoded header block over all its frames (CVE-2024-27316); more is a connection error ENHANCE_YOUR_CALM. */
  readonly headerBlockBytesMax: number;
  /** CONTINUATION frames of one block, empty ones included; more is a connection error ENHANCE_YOUR_CALM. */
  readonly continuationsMax: number;
  /**
   * Resets by the client of calls not yet answered, and calls refused for `streamsMax`: this many at once, refilled by
   * `clientResetsPerSecond`, and every answered call gives one back. Beyond: GOAWAY ENHANCE_YOUR_CALM (CVE-2023-44487).
   *
   * Envoy resets every call it gives up on. At most `streamsMax` are open, and a check has 250 ms or so before it is
   * given up: 1,024 × 4 per second is a full house timing out over and over, which the refill alone allows. An attacker
   * within it makes us decode 4,096 short header blocks a second.
   */
  readonly clientResetsBurst: number;
  readonly clientResetsPerSecond: number;
  /**
   * Resets that the client provoked from us by breaking a rule (CVE-2025-8671). A correct client causes none, so the
   * budget is small: GOAWAY ENHANCE_YOUR_CALM.
   */
  readonly provokedResetsBurst: number;
  readonly provokedResetsPerSecond: number;
  /**
   * Frames that carry no request: SETTINGS, PING, PRIORITY, WINDOW_UPDATE, RST_STREAM of a stream already closed, unknown types,
   * and DATA of less than 256 bytes that does not end its stream. Every answered call gives `controlFramesPerCall` back: window updates and PINGs of a
   * busy client grow with its calls. Beyond: GOAWAY ENHANCE_YOUR_CALM.
   */
  readonly controlFramesBurst: number;
  readonly controlFramesPerSecond: number;
  readonly controlFramesPerCall: number;
  /** Settings in one SETTINGS frame; more is a connection error ENHANCE_YOUR_CALM. */
  readonly settingsPerFrameMax: number;
  /** Output waiting in the socket from which on nothing more is read, until it has drained. */
  readonly outputPauseBytes: number;
  /** Output waiting in the socket at which the connection is destroyed: its peer does not read what it asks for. */
  readonly outputBytesMax: number;
  /** Answers that wait for the client's flow-control windows, all together; the next is reset (ENHANCE_YOUR_CALM). */
  readonly unsentBytesMax: number;
  /** How long an answer may wait for a window, or a paused socket for its peer to read; then reset, or destroyed. */
  readonly unsentMsMax: number;
  /** From accepting to the client's preface and SETTINGS. */
  readonly prefaceMsMax: number;
  /** From the first byte of a frame to its last; for header blocks, to the end of the last CONTINUATION. */
  readonly frameMsMax: number;
  /** From the end of a request's headers to the end of its body; then answered DEADLINE_EXCEEDED. */
  readonly bodyMsMax: number;
  /** How long a connection in error is drained before its socket is destroyed, so that the GOAWAY arrives. */
  readonly lingerMs: number;
}

/** What a server has that is told nothing else. */
export const DEFAULT_LIMITS: TransportLimits = {
  connectionsMax: 1024,
  streamsMax: 1024,
  messageBytesMax: 4 * 1024 * 1024,
  bodiesBytesMax: 32 * 1024 * 1024,
  streamWindowBytes: 256 * 1024,
  connectionWindowBytes: 1024 * 1024,
  headerListBytesMax: 64 * 1024,
  headerFieldsMax: 256,
  headerBlockBytesMax: 96 * 1024,
  continuationsMax: 64,
  clientResetsBurst: 8192,
  clientResetsPerSecond: 4096,
  provokedResetsBurst: 256,
  provokedResetsPerSecond: 16,
  controlFramesBurst: 10_000,
  controlFramesPerSecond: 1000,
  controlFramesPerCall: 4,
  settingsPerFrameMax: 64,
  outputPauseBytes: 256 * 1024,
  outputBytesMax: 16 * 1024 * 1024,
  unsentBytesMax: 16 * 1024 * 1024,
  unsentMsMax: 30_000,
  prefaceMsMax: 10_000,
  frameMsMax: 10_000,
  bodyMsMax: 30_000,
  lingerMs: 1000,
};

/** Why something was refused: a small fixed set, fit for a metric's label. */
export type Refusal =
  | "connections"
  | "streams"
  | "message-size"
  | "bodies"
  | "header-list"
  | "header-block"
  | "client-resets"
  | "provoked-resets"
  | "control-frames"
  | "output"
  | "unsent"
  | "slow-preface"
  | "slow-frame"
  | "slow-body"
  | "protocol";
