// Published packages of the workspace.

import { existsSync, lstatSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

export const ROOT: string = join(import.meta.dirname, "..", "..");

/** Folders of packages that make and study models. The others are the runtime, which works without them. */
export const LAB: readonly string[] = ["refactor"];

export interface Manifest {
  readonly name: string;
  readonly version: string;
  readonly license?: string;
  readonly files?: readonly string[];
  readonly bin?: Readonly<Record<string, string>>;
  readonly exports: Readonly<Record<string, Readonly<Record<string, string>>>>;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly peerDependencies?: Readonly<Record<string, string>>;
}

export interface WorkspacePackage {
  readonly folder: string;
  readonly manifest: Manifest;
}

/** Published packages: all below packages/, in the order of their folders. */
export function workspacePackages(): readonly WorkspacePackage[] {
  const parent = join(ROOT, "packages");
  return (
    readdirSync(parent)
      // Builds of a package that was removed may still be there.
      .filter((name) => existsSync(join(parent, name, "package.json")))
      .toSorted()
      .map((name) => ({ folder: join(parent, name), manifest: readManifest(join(parent, name)) }))
  );
}

export function readManifest(folder: string): Manifest {
  return JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as Manifest;
}

/** Lists a package after all packages of the workspace that it depends on. */
export function closureOf(name: string, packages: readonly WorkspacePackage[]): readonly string[] {
  const found = new Set<string>();
  const visit = (wanted: string): void => {
    const own = packages.find(({ manifest }) => manifest.name === wanted);
    if (!own || found.has(wanted)) return;
    for (const dependency of Object.keys(own.manifest.dependencies ?? {})) visit(dependency);
    found.add(wanted);
  };
  visit(name);
  return [...found];
}

/** Sums the bytes of all files below a folder; 0 when it does not exist. */
export function folderBytes(path: string): number {
  const state = lstatSync(path, { throwIfNoEntry: false });
  if (!state) return 0;
  if (!state.isDirectory()) return state.size;
  return readdirSync(path).reduce((sum, name) => sum + folderBytes(join(path, name)), 0);
}
