// Installs this repository's dependencies with the pinned pnpm. `--to-run` leaves out dependencies of tests and checks
// unless they are installed already. It is plain JavaScript, because nothing that runs TypeScript is installed yet.

import { spawn } from "node:child_process";
import fs from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import {
  failureOfRegistry,
  foreignModules,
  installedState,
  isOlder,
  lockFile,
  publicAddress,
  unwritableFolders,
} from "./install-checks.mjs";
import { locked } from "../examples/lock.mjs";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "..");
const MODULES = join(ROOT, "node_modules");
const REGISTRY = process.env["npm_config_registry"] || "https://registry.npmjs.org/";
/** Sizes on disk, measured by `npm run measure:install`. */
const [TO_RUN_BYTES, WHOLE_BYTES] = [0.4e9, 1e9];
const REPORT_MS = 10_000;
/** State after the last complete installation. pnpm needs seconds, and a network, to find that nothing has changed. */
const STAMP = join(MODULES, ".readme-moe-installed");

const { engines, packageManager } = JSON.parse(fs.readFileSync(join(ROOT, "package.json"), "utf8"));
process.exitCode = await main();

async function main() {
  const wanted = engines.node.replace(/^>=/, "");
  if (isOlder(process.versions.node, wanted)) {
    console.error(
      `error: this is Node ${process.versions.node}, and Node ${wanted} or newer is needed: https://nodejs.org has it, ` +
        "and `nvm install 22` or `fnm install 22` install it beside this one",
    );
    return 1;
  }
  const unlock = await locked(lockFile(ROOT), (pid) =>
    console.error(`Process ${pid} installs into the same folder: waiting until it is done …`),
  );
  try {
    return await install();
  } finally {
    unlock();
  }
}

async function install() {
  const foreign = foreignModules(MODULES, `${process.platform}-${process.arch}`);
  if (foreign !== undefined) {
    console.error(`node_modules ${foreign}: removing it, and installing again`);
    fs.rmSync(MODULES, { recursive: true, force: true });
  }
  const installed = installedModules();
  const toRun = process.argv.includes("--to-run") && !installed.includes("devDependencies");
  const bytes = toRun ? TO_RUN_BYTES : WHOLE_BYTES;
  const isThere = installed.includes(toRun ? "dependencies" : "devDependencies");
  if (isThere && stampOf() === installedState(ROOT)) return 0;
  fs.rmSync(STAMP, { force: true });
  if (!isThere) {
    console.error(
      `Installing dependencies into ${MODULES}: ${gigabytes(bytes)} (${gigabytes(freeBytes())} are free) …`,
    );
  }
  const status = await runPnpm(toRun ? ["--prod"] : []);
  if (status === 0) {
    fs.writeFileSync(STAMP, installedState(ROOT));
    return 0;
  }
  console.error(`\nerror: installing failed with exit code ${status}; the lines above say why. What helps:`);
  for (const line of await advice(bytes)) console.error(`- ${line}`);
  return 1;
}

/** Runs `pnpm install`, and says every ten seconds that it still runs. @returns the exit code */
async function runPnpm(more) {
  const args = ["--yes", packageManager, "install", "--frozen-lockfile", "--loglevel=error"];
  // Without a terminal, the change from a smaller to a full installation cannot be confirmed.
  args.push("--config.confirm-modules-purge=false", ...more);
  // Windows finds npx.cmd only through its shell.
  const child = spawn("npx", args, { cwd: ROOT, stdio: "inherit", shell: process.platform === "win32" });
  const startMs = performance.now();
  const timer = setInterval(async () => {
    const seconds = Math.round((performance.now() - startMs) / 1000);
    const failure = await failureOfRegistry(REGISTRY);
    console.error(
      `  ${seconds} s${failure === undefined ? "" : `; ${publicAddress(REGISTRY)} does not answer: ${failure}`}`,
    );
  }, REPORT_MS);
  const status = await new Promise((resolve) => {
    child.on("error", (error) => {
      console.error(`npx did not start: ${error.message}; it comes with Node's npm`);
      resolve(1);
    });
    child.on("close", (code) => resolve(code ?? 1));
  });
  clearInterval(timer);
  return status;
}

/** Lists what to do, the likely causes only if there are any. */
async function advice(bytes) {
  const lines = unwritableFolders({ root: ROOT, env: process.env }).map(
    ({ folder, variable }) =>
      `${folder} cannot be written${variable === undefined ? ": clone into a folder of your own" : `; ${variable}=<folder> names another one`}`,
  );
  const failure = await failureOfRegistry(REGISTRY);
  if (failure !== undefined) {
    lines.push(
      `the registry ${publicAddress(REGISTRY)} does not answer (${failure}): check the network; npm_config_registry=<url> ` +
        "names another one, HTTPS_PROXY=<url> a proxy",
    );
  }
  if (freeBytes() < bytes)
    lines.push(`${gigabytes(bytes)} are needed in ${MODULES}, and ${gigabytes(freeBytes())} are free`);
  if (lines.length === 0) lines.push("remove node_modules and call it again");
  return lines;
}

/** Lists the kinds of dependencies that the last installation had, from pnpm's record. */
function installedModules() {
  try {
    const { included } = JSON.parse(fs.readFileSync(join(MODULES, ".modules.yaml"), "utf8"));
    return Object.keys(included).filter((kind) => included[kind]);
  } catch {
    return [];
  }
}

/** Reads the stamp of the last installation; `undefined` without one. */
function stampOf() {
  return fs.existsSync(STAMP) ? fs.readFileSync(STAMP, "utf8") : undefined;
}

function freeBytes() {
  const { bavail, bsize } = fs.statfsSync(fs.existsSync(MODULES) ? MODULES : ROOT);
  return bavail * bsize;
}

function gigabytes(bytes) {
  return `${(bytes / 1e9).toFixed(1)} GB`;
}
