// Packs the tarballs that would be published.

import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { run } from "./run.ts";
import { ROOT, workspacePackages, type WorkspacePackage } from "./workspace.ts";

export interface PackedPackage extends WorkspacePackage {
  readonly tarball: string;
}

/** Builds all packages and packs them into `folder`. */
export async function packAll(folder: string): Promise<readonly PackedPackage[]> {
  const packages = workspacePackages();
  const tsc = join(ROOT, "node_modules", "typescript", "bin", "tsc");
  await run(process.execPath, [tsc, "-b", ...packages.map(({ folder: source }) => source)], { cwd: ROOT });
  for (const { folder: source } of packages) removeStale(source);
  await run(process.execPath, [join(ROOT, "tools", "packages", "bundle.mjs")], { cwd: ROOT });
  const filters = packages.flatMap(({ manifest }) => ["--filter", manifest.name]);
  await run("npx", ["--yes", packageManager(), ...filters, "-r", "pack", "--pack-destination", folder], { cwd: ROOT });
  return packages.map((own) => ({ ...own, tarball: join(folder, tarballName(own)) }));
}

/** Removes outputs of deleted sources, which the compiler keeps. */
function removeStale(folder: string): void {
  const dist = join(folder, "dist");
  for (const name of readdirSync(dist, { recursive: true, encoding: "utf8" })) {
    const stem = /^(.*?)(?:\.js|\.d\.ts)(?:\.map)?$/.exec(name)?.[1];
    if (stem === undefined) continue;
    const isMade = [".ts", ".tsx"].some((extension) => existsSync(join(folder, "src", stem + extension)));
    if (!isMade) rmSync(join(dist, name));
  }
}

/** Reads the pinned package manager from package.json, such as `pnpm@10.34.9`. */
function packageManager(): string {
  const root = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { readonly packageManager: string };
  return root.packageManager;
}

function tarballName({ manifest: { name, version } }: WorkspacePackage): string {
  return `${name.replace("@", "").replace("/", "-")}-${version}.tgz`;
}
