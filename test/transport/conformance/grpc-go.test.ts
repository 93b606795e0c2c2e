import t from "tap";
import { isServed } from "./calls.ts";
import { runTool, serve, toolOrSkip, transports } from "./served.ts";

interface Result {
  readonly case: string;
  /** Calls by the name of their status. */
  readonly codes: Readonly<Record<string, number>>;
  readonly message: string;
}

/** What each case of the Go client must come back with; several where gRPC leaves the choice to the server. */
const WANTED: Readonly<Record<string, readonly Result["codes"][]>> = {
  empty_unary: [{ OK: 1 }],
  large_unary: [{ OK: 1 }],
  large_unary_beyond_the_limit: [{ ResourceExhausted: 1 }],
  large_unary_small_windows: [{ OK: 10 }],
  unimplemented_method: [{ Unimplemented: 1 }],
  unimplemented_service: [{ Unimplemented: 1 }],
  special_status_message: [{ Unimplemented: 1 }],
  // Compression is optional (gRPC's compression.md): a server that cannot unpack says UNIMPLEMENTED, never a wrong answer.
  gzip_request: [{ OK: 1 }, { Unimplemented: 1 }],
  custom_metadata: [{ OK: 1 }],
  cancel_after_begin: [{ Canceled: 100 }],
  cancelled_half_then_answered: [{ OK: 600 }],
  timeout_on_sleeping_server: [{ DeadlineExceeded: 1 }],
  // A violation of unary's cardinality: gRPC's statuscodes.md says UNIMPLEMENTED; grpc-go's server says INTERNAL.
  no_request_message: [{ Unimplemented: 1 }, { Internal: 1 }, { InvalidArgument: 1 }],
  two_request_messages: [{ Unimplemented: 1 }, { Internal: 1 }, { InvalidArgument: 1 }],
  concurrent_on_one_connection: [{ OK: 2_000 }],
  many_connections: [{ OK: 1_000 }],
  client_pings: [{ OK: 3 }],
};

const { found, options } = await toolOrSkip("go-client");

for (const transport of await transports()) {
  t.test(`${transport}: grpc-go is answered as gRPC's interoperability cases want it`, options, async (t) => {
    const sidecar = await serve(t, transport);
    const { code, out, err } = await runTool(found!, ["-address", sidecar.extAuthz]);
    t.equal(code, 0, err);
    const results = JSON.parse(out) as readonly Result[];
    t.same(results.map((result) => result.case).sort(), Object.keys(WANTED).sort());
    for (const { case: name, codes, message } of results) {
      const wanted = WANTED[name] ?? [];
      t.ok(
        wanted.some((want) => JSON.stringify(want) === JSON.stringify(codes)),
        `${name} ${JSON.stringify(codes)} ${message}`,
      );
      // Neither raw control characters nor a broken encoding: whoever logs the message must not be fooled by a caller's path.
      if (name === "special_status_message") t.notMatch(message, /[\r\n]|%[0-9A-F]{2}|\ufffd/);
    }
    t.ok(await isServed(sidecar.extAuthz), "and the next caller is served");
  });
}
