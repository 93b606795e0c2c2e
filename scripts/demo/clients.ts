/** The demo's callers: honest workloads that answer challenges, and a thief who cannot. */

import { spawnSync } from "node:child_process";
import { type Answer, type Call, type Caller, curl, nodeClient, python } from "../../test/support/clients.ts";
import type { Issuer } from "../pki.ts";

/** An honest workload: it gets tokens by its own identity, and answers a challenge with a fresher one. */
export class Workload {
  challenges = 0;
  private token: string | undefined;
  private client: ReturnType<typeof nodeClient>;
  private caller: Caller;
  private agent: string;
  private readonly issuer: Issuer;
  private readonly subject: string | undefined;

  constructor(options: {
    readonly caller: Caller;
    readonly agent: string;
    readonly issuer: Issuer;
    /** Subject of its tokens; without one it shows its certificate only. */
    readonly subject?: string;
  }) {
    this.caller = options.caller;
    this.client = nodeClient(options.caller);
    this.agent = options.agent;
    this.issuer = options.issuer;
    this.subject = options.subject;
  }

  /** The token in use, for the thief to steal. */
  get bearer(): string {
    return this.token ?? "";
  }

  async call(call: Call): Promise<Answer> {
    if (this.subject !== undefined) this.token ??= await this.issuer.token({ subject: this.subject });
    const answer = await this.send(call);
    if (answer.status !== 401 || this.subject === undefined) return answer;
    // RFC 9470: a token issued after the challenge is wanted; this workload can get one, a thief of the old one cannot.
    this.challenges++;
    this.token = await this.issuer.token({ subject: this.subject });
    return await this.send(call);
  }

  /** A deploy or a move: a new pod, perhaps a new version and another TLS library, with the token at hand or a new one. */
  move(change: { readonly caller?: Partial<Caller>; readonly agent?: string; readonly freshToken?: boolean }): void {
    this.client.close();
    this.caller = { ...this.caller, ...change.caller };
    this.agent = change.agent ?? this.agent;
    if (change.freshToken === true) this.token = undefined;
    this.client = nodeClient(this.caller);
  }

  close(): void {
    this.client.close();
  }

  private send(call: Call): Promise<Answer> {
    const authorization = this.token === undefined ? {} : { authorization: `Bearer ${this.token}` };
    return this.client.send({ ...call, headers: { "user-agent": this.agent, ...authorization, ...call.headers } });
  }
}

/** One call by another client stack than the workloads': curl, else Python, else Node with other ciphers. */
export async function strangersCall(caller: Caller, { path, headers }: Call): Promise<Answer> {
  const call: Call = { path, headers: { host: "orders.shop.example", ...headers } };
  switch (strangersStack()) {
    case "curl":
      return await curl(caller, call, ["--http1.1"]);
    case "python3":
      return await python(caller, call);
    case "node": {
      const client = nodeClient({ ...caller, ciphers: "ECDHE-ECDSA-AES256-GCM-SHA384" });
      try {
        return await client.send({ ...call, headers: { "user-agent": "stranger/1.0", ...call.headers } });
      } finally {
        client.close();
      }
    }
  }
}

let stack: "curl" | "python3" | "node" | undefined;

export function strangersStack(): "curl" | "python3" | "node" {
  stack ??= has("curl") ? "curl" : has("python3") ? "python3" : "node";
  return stack;
}

function has(program: string): boolean {
  return spawnSync(program, ["--version"], { stdio: "ignore" }).status === 0;
}
