// VitePress' configuration of the site. Its own types are not installed with the repository's dependencies.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { anchorOf } from "../generate/markdown.ts";
import { adaptMarkdown } from "./markdown.ts";
import { sidebarOf, type SitePlace } from "./pages.ts";
import { ROOT, siteSources } from "./sources.ts";

const place: SitePlace = {
  sources: new Set(siteSources()),
  repository: process.env["README_MOE_SITE_REPOSITORY"],
};
const sidebar = sidebarOf(readFileSync(join(ROOT, "docs", "README.md"), "utf8"), place);

export const siteConfig = {
  srcDir: ".pages",
  outDir: "dist",
  cacheDir: join("node_modules", ".cache", "vitepress"),
  title: "readme-moe",
  description: "Language models inside a Node service, on ordinary CPUs",
  lang: "en",
  lastUpdated: false,
  // The site is static: nothing of it needs a server that knows its pages.
  cleanUrls: false,
  markdown: {
    anchor: { slugify: anchorOf },
    config: adaptMarkdown(place),
    languageAlias: { mermaid: "text" },
  },
  themeConfig: {
    nav: [
      { text: "Is it for me?", link: "/is-it-for-me" },
      { text: "Documentation", link: "/contents" },
      { text: "Examples", link: "/examples/" },
    ],
    sidebar,
    outline: { level: [2, 3] },
    search: { provider: "local" },
    docFooter: { prev: "Before", next: "Next" },
  },
} as const;
