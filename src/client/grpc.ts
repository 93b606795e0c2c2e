/** A grpc-js interceptor that answers a callee's challenges by itself: unary calls, and streams as they start. */

import type { InterceptingCall, Interceptor, InterceptorOptions, Metadata, StatusObject } from "@grpc/grpc-js";
import { type AddedHeaders, Caller, type CallerOptions, type Exchange } from "./caller.ts";

export interface InterceptorSettings extends CallerOptions {
  /** The callee as it knows itself, for example `https://orders.example`: what proofs name. */
  readonly origin: string;
}

type NextCall = Parameters<Interceptor>[1];
type NextCallResult = ReturnType<NextCall>;
type Listener = Parameters<NextCallResult["start"]>[1];
type MessageContext = Parameters<NextCallResult["sendMessageWithContext"]>[0];

/** `google.rpc.Code`. */
const UNAUTHENTICATED = 16;
/** Messages kept until the callee admits the call, to be sent again; a call that sends more is not tried again. */
const MESSAGES_MAX = 64;

/**
 * An interceptor for clients of guarded services. A call that is refused with a challenge before anything came back is
 * made again with the answer; once the callee has sent metadata or a message, it never is.
 */
export function sallyportInterceptor(settings: InterceptorSettings): Interceptor {
  const caller = new Caller(settings);
  return (options, nextCall) => {
    const url = new URL(options.method_definition.path, settings.origin);
    // grpc-js takes any call of this shape; its class is not imported, so that grpc-js stays the application's own.
    return new AnsweringCall(caller, url, options, nextCall) as unknown as InterceptingCall;
  };
}

type Sent =
  | {
      readonly kind: "message";
      readonly message: unknown;
      readonly flags: number | undefined;
      told: (() => void) | undefined;
    }
  | { readonly kind: "end" };

class AnsweringCall implements NextCallResult {
  private readonly caller: Caller;
  private readonly url: URL;
  private readonly options: InterceptorOptions;
  private readonly nextCall: NextCall;
  private metadata: Metadata | undefined;
  private listener: Listener;
  private exchange: Exchange | undefined;
  private current: NextCallResult | undefined;
  /** What the application has sent: to be written, and to be written again by a further try. */
  private outbox: Sent[] = [];
  /** How much of the outbox is written in this try. */
  private written = 0;
  /** grpc-js takes one message at a time. */
  private writing = false;
  private replayable = true;
  private reads = 0;
  private cancelled: Parameters<NextCallResult["cancelWithStatus"]> | undefined;

  constructor(caller: Caller, url: URL, options: InterceptorOptions, nextCall: NextCall) {
    this.caller = caller;
    this.url = url;
    this.options = options;
    this.nextCall = nextCall;
  }

  start(metadata: Metadata, listener?: Listener): void {
    this.metadata = metadata;
    this.listener = listener;
    const headers = new Map(
      Object.keys(metadata.getMap()).map((name) => [name, metadata.get(name).map((value) => String(value))] as const),
    );
    this.exchange = this.caller.begin({ method: "POST", url: this.url, headers, body: async () => undefined });
    this.exchange.first().then(
      (added) => this.attempt(added),
      (error: unknown) => this.fail(error),
    );
  }

  sendMessageWithContext({ callback, flags }: MessageContext, message: unknown): void {
    this.outbox.push({ kind: "message", message, flags, told: callback });
    if (this.outbox.length > MESSAGES_MAX) this.settle();
    this.write();
  }

  sendMessage(message: unknown): void {
    this.sendMessageWithContext({}, message);
  }

  halfClose(): void {
    this.outbox.push({ kind: "end" });
    this.write();
  }

  startRead(): void {
    this.reads++;
    this.current?.startRead();
  }

  cancelWithStatus(...status: Parameters<NextCallResult["cancelWithStatus"]>): void {
    this.cancelled = status;
    this.settle();
    if (this.current !== undefined) this.current.cancelWithStatus(...status);
    else this.finish(status[0], status[1]);
  }

  getPeer(): string {
    return this.current?.getPeer() ?? "unknown";
  }

  getAuthContext(): ReturnType<NextCallResult["getAuthContext"]> {
    return this.current?.getAuthContext() ?? null;
  }

  private attempt(added: AddedHeaders): void {
    if (this.cancelled !== undefined) return;
    const metadata = (this.metadata as Metadata).clone();
    for (const [name, value] of Object.entries(added)) metadata.set(name, value);
    const call = this.nextCall(this.options);
    this.current = call;
    this.written = 0;
    this.writing = false;
    let empty = false;
    call.start(metadata, {
      onReceiveMetadata: (received) => {
        this.settle();
        this.caller.learn(this.url.origin, (name) => textOf(received, name));
        this.listener?.onReceiveMetadata?.(received);
      },
      onReceiveMessage: (message) => {
        // Of a unary call that brought none, grpc-js says so before the status: whether it counts is not known yet.
        if (message === null) {
          empty = true;
          return;
        }
        this.settle();
        this.listener?.onReceiveMessage?.(message);
      },
      onReceiveStatus: (status) => {
        const deliver = (): void => {
          if (empty) this.listener?.onReceiveMessage?.(null);
          this.listener?.onReceiveStatus?.(status);
        };
        this.ended(status, deliver);
      },
    });
    for (let read = 0; read < this.reads; read++) call.startRead();
    this.write();
  }

  private write(): void {
    const call = this.current;
    if (call === undefined) return;
    const item = this.outbox[this.written];
    if (item === undefined) return;
    if (item.kind === "end") {
      this.written++;
      call.halfClose();
      return;
    }
    if (this.writing) return;
    this.written++;
    this.writing = true;
    const callback = (): void => {
      // The application is told once, whichever try it is.
      item.told?.();
      item.told = undefined;
      if (call !== this.current) return;
      this.writing = false;
      this.forget();
      this.write();
    };
    call.sendMessageWithContext(
      item.flags === undefined ? { callback } : { callback, flags: item.flags },
      item.message,
    );
    if (this.outbox[this.written]?.kind === "end") this.write();
  }

  /** There will be no further try: what is written need not be kept. */
  private settle(): void {
    this.replayable = false;
    this.forget();
  }

  private forget(): void {
    if (this.replayable) return;
    this.outbox.splice(0, this.written);
    this.written = 0;
  }

  private ended(status: StatusObject, deliver: () => void): void {
    const read = (name: string): string | undefined => textOf(status.metadata, name);
    this.caller.learn(this.url.origin, read);
    if (status.code !== UNAUTHENTICATED || !this.replayable || this.exchange === undefined) {
      deliver();
      return;
    }
    this.exchange.answer(read).then(
      (answer) => {
        // While the answer was made, the call may have been given up.
        if (answer === undefined || !this.replayable) deliver();
        else this.attempt(answer);
      },
      () => deliver(), // no answer can be made: the refusal stands
    );
  }

  private fail(error: unknown): void {
    const why = error instanceof Error ? error.message : String(error);
    this.finish(UNAUTHENTICATED, `no token or proof could be made: ${why}`);
  }

  private finish(code: number, details: string): void {
    const metadata = this.metadata?.clone();
    if (metadata === undefined) return; // never started: nobody listens
    for (const name of Object.keys(metadata.getMap())) metadata.remove(name);
    if (!this.options.method_definition.responseStream) this.listener?.onReceiveMessage?.(null);
    this.listener?.onReceiveStatus?.({ code, details, metadata });
  }
}

function textOf(metadata: Metadata, name: string): string | undefined {
  const values = metadata.get(name);
  return values.length === 0 ? undefined : values.map(String).join(", ");
}
