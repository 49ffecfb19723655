// Pages of the site by the repository's files, and the targets of links between them.

import { posix } from "node:path";
import { capitalised } from "./front-matter.ts";

/** A Markdown file, by its path from the root of the repository. */
export type Source = string;

/** Files at the root that become pages; README.md becomes the home page. */
const AT_THE_ROOT: Readonly<Record<Source, string>> = {
  "README.md": "index.md",
  "CONTRIBUTING.md": "contributing.md",
  "CHANGELOG.md": "changelog.md",
  "SECURITY.md": "security.md",
  "docs/README.md": "contents.md",
};

/** Everything in docs, and the pages that other folders begin with. */
const PAGES = /^docs\/.*\.md$|^(?:bench|examples|models|packages)\/(?:.*\/)?README\.md$/;
const PICTURE = /\.(?:png|svg)$/;

/** Returns a file's path within the site, or nothing for a file that is no page. */
export function pagePathOf(source: Source): string | undefined {
  const path = AT_THE_ROOT[source];
  if (path !== undefined) return path;
  if (!PAGES.test(source)) return undefined;
  return source.replace(/^docs\//, "").replace(/README\.md$/, "index.md");
}

/** Returns a picture's path within the site, or nothing for a file that is no picture. */
export function picturePathOf(file: string): string | undefined {
  return PICTURE.test(file) ? `images/${file.replace(/^docs\/images\//, "")}` : undefined;
}

/** Link of a page on the site: another address, or a name where the site cannot lead to the file. */
export type SiteLink = { readonly href: string } | { readonly name: string };

/** Sources of the site's pages, and the address at which the repository's other files can be read. */
export interface SitePlace {
  readonly sources: ReadonlySet<Source>;
  /** Address that a path within the repository is appended to. */
  readonly repository: string | undefined;
}

/** Returns what a link of the page `source` becomes. */
export function siteLinkOf(source: Source, href: string, { sources, repository }: SitePlace): SiteLink {
  if (/^[a-z][a-z+.-]*:|^#/i.test(href)) return { href };
  const [file = "", anchor] = href.split("#");
  const path = posix.join(posix.dirname(source), decodeURIComponent(file)).replace(/\/$/, "");
  const picture = picturePathOf(path);
  if (picture !== undefined) return { href: `/${picture}` };
  const page = [path, `${path}/README.md`].find((one) => sources.has(one));
  if (page !== undefined) return { href: `/${pagePathOf(page)}${anchor === undefined ? "" : `#${anchor}`}` };
  return repository === undefined ? { name: path } : { href: `${repository.replace(/\/$/, "")}/${path}` };
}

/** An entry of the sidebar. */
interface SidebarItem {
  readonly text: string;
  readonly link: string;
}

/** A section of the sidebar. */
export interface SidebarGroup {
  readonly text: string;
  readonly items: readonly SidebarItem[];
}

/** Makes the sidebar from docs/README.md: its sections, and the pages in the order in which it links them. */
export function sidebarOf(index: string, place: SitePlace): readonly SidebarGroup[] {
  const [, ...sections] = index.split(/^## /m);
  return sections.map((section) => {
    const [text = "", ...lines] = section.split("\n");
    const links = [...lines.join("\n").matchAll(/\[([^\]]+)\]\(([^)\s]+)\)/g)];
    const items = links.flatMap(([, label = "", href = ""]) => {
      const link = siteLinkOf("docs/README.md", href, place);
      return "href" in link && link.href.startsWith("/")
        ? [{ text: capitalised(label.replaceAll("`", "")), link: link.href }]
        : [];
    });
    return { text, items };
  });
}
