/** Answers OK to every check on our own transport, bytes unread: what a decision comes on top of. */

import { importBuilt } from "./built.ts";

const [{ UnaryServer }] = (await importBuilt("transport/server")) as [typeof import("../../src/transport/server.ts")];

/** CheckResponse with an empty google.rpc.Status, which is OK. */
const OK = Uint8Array.of(0x0a, 0);

const server = new UnaryServer([{ path: "/envoy.service.auth.v3.Authorization/Check", handle: () => OK }], {
  onError: console.error,
});
console.log(JSON.stringify({ extAuthz: await server.listen("127.0.0.1:0") }));
