// Links in Markdown files lead somewhere.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { anchorsOf, linksOf, markdownFiles, resolveLink, ROOT } from "../support/docs/markdown.ts";

const files = markdownFiles();

test("there are pages to look at", () => {
  expect(files).toEqual(expect.arrayContaining(["README.md", join("docs", "README.md")]));
});

test.each(files)("%s: files and places that are linked to exist", (page) => {
  const broken = linksOf(page).flatMap(({ target, line }) => {
    const [file = "", anchor] = target.split("#");
    if (/^(https?|mailto):/.test(file)) return URL.canParse(target) ? [] : [`${page}:${line}: ${target}`];
    const path = file === "" ? page : resolveLink(page, file);
    const isThere = existsSync(join(ROOT, path));
    const isPlace = anchor === undefined || (isThere && anchorsOf(path).has(decodeURIComponent(anchor)));
    return isThere && isPlace ? [] : [`${page}:${line}: ${target}`];
  });
  expect(broken).toEqual([]);
});

test("every page of docs can be reached from its index", () => {
  const reached = new Set<string>();
  const visit = (page: string): void => {
    if (reached.has(page) || !existsSync(join(ROOT, page))) return;
    reached.add(page);
    for (const { target } of linksOf(page)) {
      const file = target.split("#")[0] ?? "";
      if (file.endsWith(".md") && !file.startsWith("http")) visit(resolveLink(page, file));
    }
  };
  visit(join("docs", "README.md"));
  expect(files.filter((page) => page.startsWith("docs/") && !reached.has(page))).toEqual([]);
});

test.each(["architecture", "architecture-lab"])("paths on the page %s exist, and are at most 60", (page) => {
  const text = readFileSync(join(ROOT, "docs", `${page}.md`), "utf8");
  const paths = Array.from(text.matchAll(/`([\w.-]+(?:\/[\w.-]+)+\/?)`/g), ([, path = ""]) => path);
  expect(paths.length).toBeGreaterThan(25);
  expect(paths.length).toBeLessThanOrEqual(60);
  const missing = paths.filter((path) => !existsSync(join(ROOT, "packages", path)) && !existsSync(join(ROOT, path)));
  expect(missing).toEqual([]);
});

test("every page of docs begins with a paragraph that says what it is for", () => {
  for (const page of files.filter((path) => path.startsWith("docs/") && path !== join("docs", "README.md"))) {
    expect(readFileSync(join(ROOT, page), "utf8"), page).toMatch(/^# .+\n\n(?:\p{L}|`)[\s\S]{40,}?[.:]/u);
  }
});
