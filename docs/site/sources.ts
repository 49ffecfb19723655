// Reads the site's pages from the repository, and puts them where VitePress finds them.

import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative, sep } from "node:path";
import { homePage, withDescription } from "./front-matter.ts";
import { pagePathOf, picturePathOf, type Source } from "./pages.ts";

export const ROOT: string = join(import.meta.dirname, "..", "..");
export const SITE: string = join(ROOT, "docs", "site");
/** Pages under the paths that they have on the site. */
const PAGES: string = join(SITE, ".pages");

// Dependencies, what is built or measured, and folders that `npm start` and the examples make.
const SKIPPED = /^(?:node_modules|dist|fixtures|test|site|bench-results|my-.*|pocket-.*|\..*)$/;

/** Returns all files that become pages. */
export function siteSources(): readonly Source[] {
  return filesIn(ROOT).filter((file) => pagePathOf(file) !== undefined);
}

/** Returns all pictures of the site, by their paths from the root of the repository. */
export function sitePictures(): readonly string[] {
  return filesIn(ROOT).filter((file) => picturePathOf(file) !== undefined);
}

function filesIn(folder: string): readonly string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return SKIPPED.test(entry.name) ? [] : filesIn(path);
    return [relative(ROOT, path).split(sep).join("/")];
  });
}

/** Writes all pages and pictures. */
export function writePages(): void {
  rmSync(PAGES, { recursive: true, force: true });
  for (const source of siteSources()) writePage(source);
  for (const picture of sitePictures()) {
    cpSync(join(ROOT, picture), join(PAGES, "public", picturePathOf(picture) ?? picture));
  }
}

/** Writes the page of one file. */
export function writePage(source: Source): void {
  const path = pagePathOf(source);
  if (path === undefined) return;
  const text = readFileSync(join(ROOT, source), "utf8");
  const file = join(PAGES, path);
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, source === "README.md" ? homePage(text) : withDescription(text));
}
