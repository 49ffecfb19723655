// `npm run measure:install`: measures the installation of each package in an empty folder, with a warm cache of npm.

import { readdirSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { packAll, type PackedPackage } from "./pack.ts";
import { run } from "./run.ts";
import { closureOf, folderBytes } from "./workspace.ts";

const RUNTIME = "onnxruntime-node";

interface Installed {
  readonly name: string;
  readonly packages: number;
  /** Package without the inference runtime. */
  readonly bytes: number;
  readonly runtimeBytes: number;
  readonly seconds: number;
}

const folder = await mkdtemp(join(tmpdir(), "readme-moe-sizes-"));
try {
  const packed = await packAll(folder);
  // The first installation fills npm's cache.
  await install(packed, packed, "all packages");
  const rows = [await install(packed, packed, "all packages")];
  for (const own of packed) {
    const names = closureOf(own.manifest.name, packed);
    const wanted = packed.filter(({ manifest }) => names.includes(manifest.name));
    rows.push(await install(wanted, packed, `\`${own.manifest.name}\``));
  }
  console.log("| package | packages | installed | of it onnxruntime-node | without it | seconds |");
  console.log("| --- | ---: | ---: | ---: | ---: | ---: |");
  for (const { name, packages, bytes, runtimeBytes, seconds } of rows) {
    const cells = [name, packages, megabytes(bytes + runtimeBytes), megabytes(runtimeBytes), megabytes(bytes)];
    console.log(`| ${[...cells, seconds.toFixed(1)].join(" | ")} |`);
  }
} finally {
  await rm(folder, { recursive: true, force: true });
}

async function install(
  wanted: readonly PackedPackage[],
  all: readonly PackedPackage[],
  name: string,
): Promise<Installed> {
  const cwd = join(folder, "installed");
  await rm(cwd, { recursive: true, force: true });
  await mkdir(cwd);
  await writeFile(join(cwd, "package.json"), JSON.stringify({ private: true }));
  const start = performance.now();
  const env = { ONNXRUNTIME_NODE_INSTALL: "skip" };
  const tarballs = all.filter((one) => wanted.includes(one)).map(({ tarball }) => tarball);
  await run("npm", ["install", "--no-audit", "--no-fund", "--prefer-offline", ...tarballs], { cwd, env });
  const seconds = (performance.now() - start) / 1000;
  const modules = join(cwd, "node_modules");
  const runtimeBytes = folderBytes(join(modules, RUNTIME));
  return { name, packages: numPackages(modules), bytes: folderBytes(modules) - runtimeBytes, runtimeBytes, seconds };
}

function numPackages(modules: string): number {
  return readdirSync(modules, { recursive: true, encoding: "utf8", withFileTypes: true }).filter(
    ({ name, parentPath }) => name === "package.json" && /node_modules[/\\](?:@[^/\\]+[/\\])?[^/\\]+$/.test(parentPath),
  ).length;
}

function megabytes(bytes: number): string {
  return bytes === 0 ? "–" : `${(bytes / 1e6).toFixed(1)} MB`;
}
