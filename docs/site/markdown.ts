// Changes of VitePress's Markdown: links of the repository become links of the site, and diagrams are drawn.

import { pagePathOf, siteLinkOf, type SitePlace } from "./pages.ts";

/** The parts of markdown-it that are used here; it is not installed with the repository's dependencies. */
interface Token {
  type: string;
  tag: string;
  readonly info: string;
  readonly content: string;
  readonly children: readonly Token[] | null;
  attrGet(name: string): string | null;
  attrSet(name: string, value: string): void;
  attrs: [string, string][] | null;
}
type Rule = (tokens: readonly Token[], index: number, ...rest: readonly unknown[]) => string;
export interface MarkdownIt {
  readonly core: {
    readonly ruler: {
      push(name: string, rule: (state: { readonly tokens: readonly Token[]; readonly env: Environment }) => void): void;
    };
  };
  readonly renderer: { readonly rules: { fence?: Rule } };
}
interface Environment {
  /** The page's path within the site. */
  readonly relativePath?: string;
}

/** Returns a function that adapts VitePress's Markdown to the pages of `place`. */
export function adaptMarkdown(place: SitePlace): (markdown: MarkdownIt) => void {
  const sources = new Map(Array.from(place.sources, (source) => [pagePathOf(source), source]));
  return ({ core, renderer }) => {
    core.ruler.push("links-of-the-repository", ({ tokens, env }) => {
      const source = sources.get(env.relativePath ?? "");
      if (source === undefined) return;
      for (const token of tokens) {
        // VitePress makes only fenced code scroll; indented code would widen the page.
        if (token.type === "code_block") token.type = "fence";
        adaptLinks(token.children ?? [], source, place);
      }
    });
    const { fence } = renderer.rules;
    renderer.rules.fence = (tokens, index, ...rest) => {
      const token = tokens[index];
      if (token?.info.trim() === "mermaid") return `<Diagram code="${encodeURIComponent(token.content)}" />`;
      return fence?.(tokens, index, ...rest) ?? "";
    };
  };
}

/** Changes addresses of links and pictures; what only the repository has is shown by its name. */
function adaptLinks(tokens: readonly Token[], source: string, place: SitePlace): void {
  let isName = false;
  for (const token of tokens) {
    const attribute = token.type === "image" ? "src" : "href";
    const address = token.attrGet(attribute);
    if (token.type === "link_close" && isName) {
      token.tag = "span";
      isName = false;
    }
    if (address === null || (token.type !== "image" && token.type !== "link_open")) continue;
    const link = siteLinkOf(source, address, place);
    if ("href" in link) token.attrSet(attribute, link.href);
    else {
      token.tag = "span";
      token.attrs = [
        ["class", "file"],
        ["title", link.name],
      ];
      isName = true;
    }
  }
}
