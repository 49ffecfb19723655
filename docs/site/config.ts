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

/** Four squares in the colours of the experts, as in the chat page. */
const ICON =
  "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'><path fill='#0072b2' d='M1 1h6v6H1z'/><path fill='#e69f00' d='M9 1h6v6H9z'/>" +
  "<path fill='#009e73' d='M1 9h6v6H1z'/><path fill='#cc79a7' d='M9 9h6v6H9z'/></svg>";

export const siteConfig = {
  srcDir: ".pages",
  outDir: "dist",
  cacheDir: join("node_modules", ".cache", "vitepress"),
  title: "readme-moe",
  description: "Language models inside a Node service, on ordinary CPUs",
  lang: "en",
  head: [["link", { rel: "icon", href: `data:image/svg+xml,${encodeURIComponent(ICON)}` }]],
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
