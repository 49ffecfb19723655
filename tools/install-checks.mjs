// Checks of `install.mjs` before it installs, and after it has failed.

import { createHash } from "node:crypto";
import fs from "node:fs";
import { homedir, tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";

const ANSWER_MS = 3000;

/** Whether a version, such as `18.19.0`, is older than the least one, such as `20.19`. */
export function isOlder(version, least) {
  const [have, want] = [version, least].map((text) => text.split(".").map(Number));
  const place = want.findIndex((part, index) => part !== (have[index] ?? 0));
  return place >= 0 && (have[place] ?? 0) < want[place];
}

/**
 * Says why installed modules are of no use here: another package manager made them, or another system. `undefined` if
 * they are ours, or if there are none.
 *
 * @param system - such as `linux-x64`
 */
export function foreignModules(folder, system) {
  const names = namesIn(folder);
  if (!names.includes(".modules.yaml")) {
    return names.some((name) => !name.startsWith(".")) ? "was made by another package manager" : undefined;
  }
  let record;
  try {
    record = JSON.parse(fs.readFileSync(join(folder, ".modules.yaml"), "utf8"));
  } catch {
    return "was made by another version of pnpm, or is damaged";
  }
  // pnpm lists packages that were left out because they are for other systems; esbuild has one for each.
  const isForeign = (record.skipped ?? []).some((name) => name.startsWith(`@esbuild/${system}@`));
  return isForeign ? `was made on another system than ${system}` : undefined;
}

/** Returns a registry's address without the name and password that it may have. */
export function publicAddress(registry) {
  const url = new URL(registry);
  url.username = url.password = "";
  return url.href;
}

/** Asks a registry. @returns why it does not answer; `undefined` if it does */
export async function failureOfRegistry(registry) {
  // Behind a proxy a direct call says nothing.
  const { HTTPS_PROXY, https_proxy, npm_config_https_proxy, npm_config_proxy } = process.env;
  if (HTTPS_PROXY || https_proxy || npm_config_https_proxy || npm_config_proxy) return undefined;
  try {
    await fetch(publicAddress(registry), { method: "HEAD", signal: AbortSignal.timeout(ANSWER_MS) });
    return undefined;
  } catch (error) {
    return error.cause?.code ?? error.cause?.message ?? error.message;
  }
}

/** Lists the folders that installing writes and that cannot be written, each with the variable that names another. */
export function unwritableFolders({ root, env }) {
  const folders = [
    { folder: root, variable: undefined },
    { folder: env["npm_config_cache"] || join(homedir(), ".npm"), variable: "npm_config_cache" },
    { folder: env["XDG_DATA_HOME"] || join(homedir(), ".local", "share"), variable: "XDG_DATA_HOME" },
  ];
  return folders.filter(({ folder }) => !isWritable(folder));
}

/** Returns the file that tells other installations into a folder of this one. */
export function lockFile(root) {
  return join(tmpdir(), `readme-moe-install-${createHash("sha256").update(root).digest("hex").slice(0, 16)}`);
}

/** Hashes what an installation follows, and which packages of the workspace have modules. */
export function installedState(root) {
  const hash = createHash("sha256");
  for (const name of ["pnpm-lock.yaml", "pnpm-workspace.yaml"]) {
    const file = join(root, name);
    if (fs.existsSync(file)) hash.update(fs.readFileSync(file));
  }
  for (const folder of [...namesIn(join(root, "packages")).map((name) => join("packages", name)), "examples/chatbot"]) {
    hash.update(`\0${folder} ${fs.existsSync(join(root, folder, "node_modules"))}`);
  }
  return hash.digest("hex");
}

/** Whether a folder can be written, or made. */
function isWritable(folder) {
  for (let path = resolve(folder); ; path = dirname(path)) {
    if (!fs.existsSync(path)) continue;
    try {
      fs.accessSync(path, fs.constants.W_OK);
      return fs.statSync(path).isDirectory();
    } catch {
      return false;
    }
  }
}

function namesIn(folder) {
  try {
    return fs.readdirSync(folder);
  } catch {
    return [];
  }
}
