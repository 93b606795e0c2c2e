import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { isServed } from "./calls.ts";
import { CHECK_PATH, runTool, serve, type TransportName, toolOrSkip, transports } from "./served.ts";

/** Of the sections generic, hpack and http2, the strict ones included. */
const CASES = 146;
const CASE_TIMEOUT_S = 2;

/** h2spec leaves these out when it gets no DATA, as grpc-js answers its requests, which hold no message: trailers only. */
const LEFT_OUT: Readonly<Record<TransportName, readonly string[]>> = {
  auto: [],
  "grpc-js": [
    "http2/6.5.3 Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE",
    "http2/6.9.1 Sends SETTINGS frame to set the initial window size to 1 and sends HEADERS frame",
    "http2/6.9.2 Changes SETTINGS_INITIAL_WINDOW_SIZE after sending HEADERS frame",
    "http2/6.9.2 Sends a SETTINGS frame for window size to be negative",
  ],
};

/** How often h2spec may run: grpc-js answers sometimes before and sometimes after h2spec's next frame, which changes what it sees. */
const RUNS_MAX: Readonly<Record<TransportName, number>> = { auto: 1, "grpc-js": 4 };

/** Cases that fail, and why that is right or at least known: exactly these. */
const FAILED: Readonly<Record<TransportName, readonly string[]>> = {
  auto: [],
  "grpc-js": [
    // Answered at once, so that h2spec sees the end of an answer where it waits for a frame of its own.
    "generic/2 Sends a WINDOW_UPDATE frame on half-closed (remote) stream",
    "generic/2 Sends a PRIORITY frame on half-closed (remote) stream",
    // Node's HTTP/2 ignores frames on closed streams rather than ending the connection.
    "http2/5.1 closed: Sends a DATA frame after sending RST_STREAM frame",
    "http2/5.1 closed: Sends a HEADERS frame after sending RST_STREAM frame",
    "http2/5.1 closed: Sends a DATA frame",
    "http2/5.1 closed: Sends a HEADERS frame",
    "http2/5.1.1 Sends stream identifier that is numerically smaller than previous",
    // Refused streams are counted as closed before h2spec looks.
    "http2/5.1.2 Sends HEADERS frames that causes their advertised concurrent stream limit to be exceeded",
    // Node ends a connection that acknowledges a PING it never sent.
    "http2/6.7 Sends a PING frame with ACK",
    // The stream is closed by its answer before the window overflows.
    "http2/6.9.1 Sends multiple WINDOW_UPDATE frames increasing the flow control window to above 2^31-1",
  ],
};

interface Outcome {
  readonly title: string;
  readonly kind: "passed" | "failed" | "left out";
}

/** Read line by line and not as XML: h2spec writes received bytes as they are into it, control characters included. */
function outcomesOf(report: string): readonly Outcome[] {
  const found = report.matchAll(
    /<testcase package="([^"]*)" classname="([^"]*)" time="[^"]*">(?:<\/testcase>|\s*<(\w+)>)/g,
  );
  return [...found].map(([, section, title, tag]) => ({
    title: `${section} ${title}`,
    kind: tag === undefined ? "passed" : tag === "skipped" ? "left out" : "failed",
  }));
}

const { found, options } = await toolOrSkip("h2spec");

for (const transport of await transports()) {
  t.test(`${transport}: HTTP/2 and HPACK are spoken as h2spec wants them, case by case`, options, async (t) => {
    const folder = await mkdtemp(join(tmpdir(), "sallyport-h2spec-"));
    t.teardown(() => rm(folder, { recursive: true, force: true }));
    const sidecar = await serve(t, transport);
    const [host, port] = sidecar.extAuthz.split(":") as [string, string];
    const report = join(folder, "report.xml");
    const wanted = (title: string): Outcome["kind"] => {
      if (FAILED[transport].includes(title)) return "failed";
      return LEFT_OUT[transport].includes(title) ? "left out" : "passed";
    };
    // A case is as wanted once one run has shown it so.
    const unexpected = new Map<string, string>();
    for (let run = 0; run < RUNS_MAX[transport] && (run === 0 || unexpected.size > 0); run++) {
      const { out } = await runTool(found!, [
        ...["generic", "hpack", "http2", "--strict", "--timeout", String(CASE_TIMEOUT_S)],
        ...["--host", host, "--port", port, "--path", CHECK_PATH, "--junit-report", report],
      ]);
      const outcomes = outcomesOf(await readFile(report, "latin1"));
      t.equal(outcomes.length, CASES, out.slice(-2_000));
      for (const { title, kind } of outcomes) {
        if (kind === wanted(title)) unexpected.delete(title);
        else if (run === 0) unexpected.set(title, kind);
      }
    }
    t.same([...unexpected], []);
    t.ok(await isServed(sidecar.extAuthz), "and the next caller is served");
  });
}
