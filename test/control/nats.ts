/** A NATS server with JetStream for tests, on loopback, that can be stopped and started again on the same port. */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { connect } from "node:net";
import { join } from "node:path";
import { eventually } from "../support/guarded.ts";
import { freePort } from "../support/ports.ts";

export interface Nats {
  readonly url: string;
  stop(): Promise<void>;
  start(): Promise<void>;
}

export async function startNats(path: string, folder: string): Promise<Nats> {
  const port = await freePort();
  let child: ChildProcess | undefined;
  const nats: Nats = {
    url: `nats://127.0.0.1:${port}`,
    start: async () => {
      child = spawn(path, ["-a", "127.0.0.1", "-p", String(port), "-js", "-sd", join(folder, "nats")], {
        stdio: "ignore",
      });
      const { pid } = child;
      process.once("exit", () => {
        if (pid !== undefined && child?.exitCode === null) child.kill("SIGKILL");
      });
      await eventually(async () => ((await answers(port)) ? true : undefined));
    },
    stop: async () => {
      if (child === undefined || child.exitCode !== null) return;
      const exited = once(child, "exit");
      child.kill("SIGKILL");
      await exited;
    },
  };
  await nats.start();
  return nats;
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    socket.once("data", () => resolve(true));
    socket.once("error", () => resolve(false));
    socket.once("close", () => resolve(false));
  }).then((answered) => answered === true);
}
