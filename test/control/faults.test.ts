import { createHash } from "node:crypto";
import { mkdir, readFile, rm } from "node:fs/promises";
import { createServer, type Http2Server } from "node:http2";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { create, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError, type ConnectRouter } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import t, { type Test } from "tap";
import { readBundle } from "../../src/bundle/bundle-file.ts";
import {
  ChunkEncoding,
  ControlService,
  EncodedChunkSchema,
  RevisionSchema,
} from "../../src/gen/sallyport/control/v1/control_pb.ts";
import { eventually } from "../support/guarded.ts";
import { makeScene, startClient } from "./scene.ts";

/** A server that answers as the test wants. */
async function fake(t: Test, routes: (router: ConnectRouter) => void): Promise<string> {
  const server: Http2Server = createServer(connectNodeAdapter({ routes }));
  server.on("session", (session) => t.teardown(() => session.destroy()));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.teardown(() => server.close());
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

async function revisionOf(
  path: string,
  chunks: readonly { data: Uint8Array; encoding: ChunkEncoding; name?: Uint8Array }[],
) {
  const bundle = readBundle(await readFile(path), path);
  return toBinary(
    RevisionSchema,
    create(RevisionSchema, {
      roots: bundle.roots,
      manifest: bundle.manifest,
      chunks: chunks.map(({ data, encoding, name }) =>
        create(EncodedChunkSchema, {
          sha256: name ?? createHash("sha256").update(bundle.chunks[0]!.data).digest(),
          encoding,
          data,
        }),
      ),
    }),
  );
}

t.test("a server that hangs is left for the next address", async (t) => {
  const scene = await makeScene(t);
  const control = await scene.control();
  await control.fleet("publish", await scene.bundle({ revision: 1 }));
  let asked = 0;
  const hanging = await fake(t, (router) =>
    router.service(ControlService, {
      watch: async function* (_, { signal }) {
        asked++;
        yield { news: { case: "heartbeat" as const, value: { intervalMs: 50 } } };
        await new Promise((resolve) => signal.addEventListener("abort", resolve));
      },
      getChunks: async function* () {},
      report: () => ({}),
    }),
  );
  const client = startClient(t, scene, `${hanging},${control.url}`);
  await eventually(async () => (client.facts?.revision === 1 ? true : undefined));
  if (asked > 0) t.ok(client.errors.some(({ message }) => message.includes("the server hangs")));
  const only = startClient(t, scene, hanging);
  await eventually(async () => only.errors.find(({ message }) => message.includes("the server hangs")));
});

t.test("pieces that are cut off, forged or bombs are refused; the last good bundle stays", async (t) => {
  const scene = await makeScene(t);
  const path = await scene.bundle({ revision: 1 });
  const piece = readBundle(await readFile(path), path).chunks[0]!.data;
  const bomb = gzipSync(Buffer.alloc(64 * 1024 * 1024));
  const bad = [
    { name: "a bomb", chunk: { data: bomb, encoding: ChunkEncoding.GZIP }, wanted: /uncompressed within its size/ },
    { name: "no gzip", chunk: { data: piece, encoding: ChunkEncoding.GZIP }, wanted: /uncompressed within its size/ },
    {
      name: "forged",
      chunk: { data: Buffer.alloc(piece.length), encoding: ChunkEncoding.IDENTITY },
      wanted: /not what its SHA-256 says/,
    },
    {
      name: "short",
      chunk: { data: piece.subarray(1), encoding: ChunkEncoding.IDENTITY },
      wanted: /not what its SHA-256 says/,
    },
  ];
  for (const { name, chunk, wanted } of bad) {
    const address = await fake(t, (router) =>
      router.service(ControlService, {
        watch: async function* (_, { signal }) {
          yield { news: { case: "revision" as const, value: await revisionOf(path, [chunk]) } };
          await new Promise((resolve) => signal.addEventListener("abort", resolve));
        },
        // biome-ignore lint/correctness/useYield: it fails before it has anything to say.
        getChunks: async function* () {
          throw new ConnectError("gone", Code.NotFound);
        },
        report: () => ({}),
      }),
    );
    const client = startClient(t, scene, address);
    t.match(await eventually(async () => client.errors[0]), { code: "ERR_BUNDLE_INVALID", message: wanted }, name);
    t.equal(client.offers.length, 0, name);
    client.close();
  }
});

t.test("a stream that ends in the middle of the pieces is taken up again; what came stays", async (t) => {
  const scene = await makeScene(t);
  const path = await scene.bundle({
    revision: 1,
    text: `apiVersion: sallyport.dev/v1\nkind: Policy\nmetadata: { name: p }\n${Array.from({ length: 20_000 }, (_, index) => `# ${createHash("sha256").update(`${index}`).digest("hex")}\n`).join("")}`,
  });
  const { chunks } = readBundle(await readFile(path), path);
  t.ok(chunks.length > 3, `${chunks.length} pieces`);
  const asked: number[] = [];
  const address = await fake(t, (router) =>
    router.service(ControlService, {
      watch: async function* (_, { signal }) {
        yield { news: { case: "revision" as const, value: await revisionOf(path, []) } };
        await new Promise((resolve) => signal.addEventListener("abort", resolve));
      },
      getChunks: async function* ({ sha256 }) {
        asked.push(sha256.length);
        for (const name of sha256.slice(0, asked.length === 1 ? 2 : undefined)) {
          const { data } = chunks.find((chunk) =>
            createHash("sha256").update(chunk.data).digest().equals(Buffer.from(name)),
          )!;
          yield { chunk: { sha256: name, size: data.length, encoding: ChunkEncoding.IDENTITY, data } };
        }
        if (asked.length === 1) throw new ConnectError("killed", Code.Unavailable);
      },
      report: () => ({}),
    }),
  );
  const client = startClient(t, scene, address);
  await eventually(async () => (client.facts?.revision === 1 ? true : undefined));
  t.same(asked, [chunks.length, chunks.length - 2]);
});

t.test("a server that flips between two revisions moves nobody back", async (t) => {
  const scene = await makeScene(t);
  const paths = [await scene.bundle({ revision: 2 }), await scene.bundle({ revision: 1 })];
  let turns = 0;
  const address = await fake(t, (router) =>
    router.service(ControlService, {
      watch: async function* (_, { signal }) {
        while (!signal.aborted && turns < 20) {
          const path = paths[turns++ % 2]!;
          const { data } = readBundle(await readFile(path), path).chunks[0]!;
          yield {
            news: {
              case: "revision" as const,
              value: await revisionOf(path, [{ data, encoding: ChunkEncoding.IDENTITY }]),
            },
          };
        }
        await new Promise((resolve) => signal.addEventListener("abort", resolve));
      },
      getChunks: async function* () {},
      report: () => ({}),
    }),
  );
  const client = startClient(t, scene, address);
  await eventually(async () => (turns === 20 && client.facts !== undefined ? true : undefined));
  t.equal(client.facts?.revision, 2);
});

t.test("a control plane that cannot write says so and keeps what it had", async (t) => {
  const scene = await makeScene(t);
  const state = join(scene.folder, "state");
  const control = await scene.control(["--state-dir", state]);
  await control.fleet("publish", await scene.bundle({ revision: 1 }));
  // A folder in the place of the file that is renamed over: the same failure for root as for anybody.
  await rm(join(state, "fleet.state"));
  await mkdir(join(state, "fleet.state", "full"), { recursive: true });
  t.match(await control.fleet("publish", await scene.bundle({ revision: 2 })), {
    code: 1,
    err: /\(ERR_STATE_UNWRITABLE\)/,
  });
  t.match((await control.fleet("channels")).out, /shop:1/);
  t.match(await (await fetch(`http://${control.health}/readyz`)).text(), /cannot write/);
  await rm(join(state, "fleet.state"), { recursive: true });
  t.equal((await control.fleet("publish", await scene.bundle({ revision: 2 }))).code, 0);
});
