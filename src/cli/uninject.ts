/** `sallyport uninject`: manifests as they were before `sallyport inject`. */

import type { Change } from "../injector/manifests.ts";
import { removeInjection } from "../injector/remove.ts";
import type { Command } from "./command.ts";
import { changeNamed, FILENAME } from "./manifests.ts";

export const uninjectCommand: Command = {
  name: "uninject",
  arguments: "",
  positionals: [0, 0],
  summary: "Take out of the pods of manifests what `sallyport inject` or the webhook added, and nothing else.",
  flags: [FILENAME],
  run: async (invocation, terminal) =>
    changeNamed(
      invocation,
      terminal,
      (pod): Change => {
        const removal = removeInjection(pod);
        return removal.kind === "removed" ? { kind: "changed", pod: removal.pod, warnings: [] } : removal;
      },
      { changed: "as it was" },
    ),
};
