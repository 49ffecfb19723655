// Collects the licences of all dependencies of the published packages, as installed here from the lockfile.

import { existsSync, readFileSync, realpathSync } from "node:fs";
import { dirname, join } from "node:path";
import { workspacePackages } from "./workspace.ts";

export interface Dependency {
  readonly name: string;
  readonly version: string;
  /** SPDX expression of its package.json. */
  readonly license: string;
  /** Our packages that depend on it, directly or not. */
  readonly neededBy: readonly string[];
}

interface InstalledManifest {
  readonly name: string;
  readonly version: string;
  readonly license?: string | { readonly type: string };
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly peerDependencies?: Readonly<Record<string, string>>;
  readonly peerDependenciesMeta?: Readonly<Record<string, { readonly optional?: boolean }>>;
}

/** Lists dependencies by name and version: required peers included, builds for single platforms excluded. */
export function productionDependencies(): readonly Dependency[] {
  const found = new Map<string, { readonly manifest: InstalledManifest; readonly neededBy: Set<string> }>();
  const own = new Set(workspacePackages().map(({ manifest }) => manifest.name));
  const visit = (folder: string, user: string, seen: Set<string>): void => {
    if (seen.has(folder)) return;
    seen.add(folder);
    const manifest = JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as InstalledManifest;
    if (!own.has(manifest.name)) {
      const key = `${manifest.name}@${manifest.version}`;
      const entry = found.get(key) ?? { manifest, neededBy: new Set<string>() };
      found.set(key, entry);
      entry.neededBy.add(user);
    }
    for (const name of needsOf(manifest)) visit(installedAt(name, folder), user, seen);
  };
  for (const { folder, manifest } of workspacePackages()) visit(realpathSync(folder), manifest.name, new Set());
  return [...found.values()]
    .map(({ manifest, neededBy }) => ({ ...described(manifest), neededBy: [...neededBy].toSorted() }))
    .toSorted((a, b) => compare(a.name, b.name) || compare(a.version, b.version));
}

/** Writes the page that lists them. */
export function licencePage(dependencies: readonly Dependency[]): string {
  const counts = new Map<string, number>();
  for (const { license } of dependencies) counts.set(license, (counts.get(license) ?? 0) + 1);
  const summary = [...counts].toSorted(([, a], [, b]) => b - a).map(([license, count]) => `${license} (${count})`);
  const rows = dependencies.map(({ name, version, license, neededBy }) => [
    `\`${name}\``,
    version,
    license,
    neededBy.map((user) => user.replace("@readme-moe/", "")).join(", "),
  ]);
  return `# Licences

All packages are under Apache-2.0; their tarballs contain its text. This page lists the packages that are installed with
them: direct and indirect dependencies, and required peers. \`npm run licences\` writes it, and a test compares it with the
packages installed from the lockfile.

${summary.join(", ")}.

${table(["package", "version", "licence", "needed by"], rows)}
`;
}

function needsOf({ dependencies = {}, peerDependencies = {}, peerDependenciesMeta = {} }: InstalledManifest): string[] {
  const peers = Object.keys(peerDependencies).filter((name) => !peerDependenciesMeta[name]?.optional);
  return [...new Set([...Object.keys(dependencies), ...peers])];
}

/** Finds a package as Node does from `folder`. */
function installedAt(name: string, folder: string): string {
  for (let at = folder; ; at = dirname(at)) {
    const candidate = join(at, "node_modules", name);
    if (existsSync(candidate)) return realpathSync(candidate);
    if (at === dirname(at)) throw new Error(`${name}: is not installed for ${folder}`);
  }
}

function described({ name, version, license }: InstalledManifest): Omit<Dependency, "neededBy"> {
  return { name, version, license: typeof license === "object" ? license.type : (license ?? "not stated") };
}

function compare(a: string, b: string): number {
  return a < b ? -1 : Number(a > b);
}

/** Writes a table in the formatter's layout. */
function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)));
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(" | ")} |`;
  return [line(head), `| ${widths.map((width) => "-".repeat(width)).join(" | ")} |`, ...rows.map(line)].join("\n");
}
