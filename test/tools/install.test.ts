// `npm start` where installing fails: what it prints. The program runs in a copy, which is nearly empty.

import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFile, mkdir, realpath, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { once } from "node:events";
import { expect, test } from "vitest";
import { installedState } from "../../tools/install-checks.mjs";
import { canMount } from "../support/node-process.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const ROOT = join(import.meta.dirname, "..", "..");
/** Nothing listens there. */
const CLOSED = "http://name:secret@127.0.0.1:9";

interface Installation {
  readonly code: number | null;
  readonly output: string;
}

/** A folder with the program and nothing else. */
async function copyOfProgram(folder?: string): Promise<string> {
  const root = folder ?? (await realpath(await temporaryFolder()));
  for (const name of ["examples", "tools"]) await mkdir(join(root, name));
  for (const name of ["package.json", "tools/install.mjs", "tools/install-checks.mjs", "examples/lock.mjs"]) {
    await copyFile(join(ROOT, name), join(root, name));
  }
  return root;
}

interface Setting {
  readonly env?: Readonly<Record<string, string>>;
  /** Arguments of Node before the program. */
  readonly flags?: readonly string[];
  /** Program that runs the script. */
  readonly runner?: readonly string[];
  readonly onOutput?: (output: string) => void;
}

async function install(root: string, { env, flags = [], runner = [], onOutput }: Setting = {}): Promise<Installation> {
  const cache = await temporaryFolder();
  const [command, ...args] = [...runner, process.execPath, ...flags, join(root, "tools", "install.mjs"), "--to-run"];
  const npm = { npm_config_registry: CLOSED, npm_config_cache: cache, npm_config_fetch_retries: "0" };
  const child = spawn(command, args, { env: { ...process.env, TMPDIR: cache, ...npm, ...env } });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (text: Buffer) => {
      output += text.toString();
      onOutput?.(output);
    });
  }
  const [code] = (await once(child, "close")) as [number | null];
  return { code, output };
}

test("an old version of Node is named with the one that is needed", async () => {
  const old = "Object.defineProperty(process, 'versions', { value: { ...process.versions, node: '18.19.1' } })";
  const { code, output } = await install(await copyOfProgram(), { flags: [`--import=data:text/javascript,${old}`] });
  expect(code).toBe(1);
  expect(output).toMatch(/^error: this is Node 18\.19\.1, and Node 20\.19 or newer is needed: .*\n$/);
});

test("a registry that does not answer is named, without its password, beside npm's own error and the size", async () => {
  const root = await copyOfProgram();
  const { code, output } = await install(root);
  expect(code).toBe(1);
  expect(output.startsWith(`Installing dependencies into ${root}/node_modules: 0.4 GB (`)).toBe(true);
  expect(output).toContain("ECONNREFUSED");
  expect(output).toMatch(/- the registry http:\/\/127\.0\.0\.1:9\/ does not answer .*npm_config_registry=<url>/);
});

test("a home that cannot be written is named with what to set", async () => {
  const env = { HOME: "/dev/null/home", npm_config_cache: "", XDG_DATA_HOME: "" };
  const { code, output } = await install(await copyOfProgram(), { env });
  expect(code).toBe(1);
  expect(output).toContain("- /dev/null/home/.npm cannot be written; npm_config_cache=<folder> names another one");
});

test.each([
  ["of another package manager", "left-pad/package.json", "{}", "was made by another package manager"],
  [
    "of another system",
    ".modules.yaml",
    JSON.stringify({ skipped: [`@esbuild/${process.platform}-${process.arch}@0.28.2`] }),
    "was made on another system",
  ],
])("node_modules %s are removed and installed again", async (_, name, content, why) => {
  const root = await copyOfProgram();
  await mkdir(join(root, "node_modules", "left-pad"), { recursive: true });
  await writeFile(join(root, "node_modules", name), content);
  const { output } = await install(root);
  expect(output).toContain(`node_modules ${why}`);
  expect(output).toContain("removing it, and installing again\nInstalling dependencies");
});

test("nothing is asked again while the lock file and the modules are those of the last installation", async () => {
  const root = await copyOfProgram();
  await mkdir(join(root, "node_modules"));
  await writeFile(join(root, "pnpm-lock.yaml"), "packages: one");
  await writeFile(join(root, "node_modules", ".modules.yaml"), '{ "included": { "dependencies": true } }');
  await writeFile(join(root, "node_modules", ".readme-moe-installed"), installedState(root));
  expect(await install(root)).toEqual({ code: 0, output: "" });
  await writeFile(join(root, "pnpm-lock.yaml"), "packages: two");
  expect((await install(root)).code).toBe(1);
});

test("a second installation waits for the first", async () => {
  const root = await copyOfProgram();
  const TMPDIR = await temporaryFolder();
  const hash = createHash("sha256").update(root).digest("hex").slice(0, 16);
  const lock = join(TMPDIR, `readme-moe-install-${hash}`);
  await writeFile(lock, `${process.pid}`);
  const waiting = `Process ${process.pid} installs into the same folder: waiting until it is done`;
  const { output } = await install(root, {
    env: { TMPDIR },
    onOutput: (text) => void (text.includes(waiting) && rm(lock, { force: true })),
  });
  expect(output).toMatch(new RegExp(`^${waiting} …\nInstalling dependencies`));
});

test("the lock of an installation that was killed does not count", async () => {
  const root = await copyOfProgram();
  const TMPDIR = await temporaryFolder();
  const hash = createHash("sha256").update(root).digest("hex").slice(0, 16);
  const ended = spawn(process.execPath, ["-e", ""]);
  await once(ended, "close");
  await writeFile(join(TMPDIR, `readme-moe-install-${hash}`), `${ended.pid}`);
  expect((await install(root, { env: { TMPDIR } })).output).toMatch(/^Installing dependencies/);
});

test.skipIf(!canMount)("a full disk is named (skipped where mounting is not permitted)", async () => {
  const root = await copyOfProgram();
  const mount =
    'mkdir "$0/node_modules" && mount --bind "$0" "$0" && mount -t tmpfs -o size=1m tmpfs "$0/node_modules" && exec "$@"';
  const runner = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, root];
  const { code, output } = await install(root, { runner });
  expect(code).toBe(1);
  expect(output).toMatch(/- 0\.4 GB are needed in .*, and 0\.0 GB are free/);
});
