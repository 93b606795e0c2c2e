/** `sallyport posture`: state facts on the condition of a workload. */

import { type Command, EXIT_GOOD, usage } from "./command.ts";
import { API_FLAGS, calling, localClient } from "./local-client.ts";

export const postureCommand: Command = {
  name: "posture",
  arguments: "SUBJECT FACT=VALUE ...",
  positionals: [2, 65],
  summary: "State posture facts of a workload, such as `compliant=false`, to a running sidecar.",
  flags: [{ name: "source", value: "TEXT", summary: "Who states them; shown with the facts." }, ...API_FLAGS],
  run: async (invocation, terminal) => {
    const [subject = "", ...pairs] = invocation.positionals;
    const facts = Object.fromEntries(
      pairs.map((pair) => {
        const equals = pair.indexOf("=");
        if (equals < 1) throw usage(`posture: expected FACT=VALUE, got ${JSON.stringify(pair)}`);
        return [pair.slice(0, equals), pair.slice(equals + 1)];
      }),
    );
    const client = localClient(invocation, terminal);
    await calling((options) => client.putPosture({ subject, facts, source: invocation.values.source ?? "" }, options));
    terminal.out(invocation.json ? JSON.stringify({ subject, facts }) : `stated: ${subject} ${pairs.join(" ")}`);
    return EXIT_GOOD;
  },
};
