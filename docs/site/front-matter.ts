// Front matter of the pages: the description that search engines show, and the parts of the home page.

export function capitalised(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** Returns the text of Markdown without its marks. */
export function plainText(markdown: string): string {
  return markdown
    .replaceAll(/!?\[([^\]]*)\]\([^)]*\)/g, "$1")
    .replaceAll(/(?<![\w*])\*{1,2}([^*]+)\*{1,2}|(?<!\w)_([^_]+)_(?!\w)/g, "$1$2")
    .replaceAll("`", "")
    .replaceAll(/\s+/g, " ")
    .trim();
}

/** Returns a page with the beginning of its first paragraph as its description. */
export function withDescription(page: string): string {
  const paragraph = page.split(/\n{2,}/).find((block) => /^[\p{L}`*[_]/u.test(block)) ?? "";
  return withFrontMatter({ description: shortened(plainText(paragraph)) }, page);
}

const MAX_DESCRIPTION = 160;

function shortened(text: string): string {
  if (text.length <= MAX_DESCRIPTION) return text;
  const start = text.slice(0, MAX_DESCRIPTION);
  const [sentences] = /^.*\.(?= )/.exec(start) ?? [];
  return sentences ?? `${start.replace(/ \S*$/, "")} …`;
}

/**
 * Makes the home page from README.md: its first paragraph, its first list as features, and the rest below.
 *
 * @throws {Error} if README.md does not begin with a title, a paragraph and a list
 */
export function homePage(readme: string): string {
  const parts = /^# (.+)\n\n([^\n#-][\s\S]*?)\n\n((?:[-\s] .*\n)+)\n([\s\S]*)$/.exec(readme);
  if (!parts) throw new Error("Expected README.md to begin with a title, a paragraph and a list");
  const [, name = "", paragraph = "", list = "", rest = ""] = parts;
  const [, first = "", others = ""] = /^(.*?)[.:] ?(.*)$/.exec(plainText(paragraph)) ?? [];
  const features = list
    .split(/^- /m)
    .slice(1)
    .map((item) => {
      const [, title = "", details = ""] = /^\*\*(.+?)\.?\*\*\s*([\s\S]*)$/.exec(item) ?? ["", "", item];
      return { title: plainText(title), details: plainText(details) };
    });
  const actions = [
    { theme: "brand", text: "Start", link: "#start" },
    { theme: "alt", text: "Is it for me?", link: "/is-it-for-me" },
    { theme: "alt", text: "Documentation", link: "/contents" },
  ];
  return withFrontMatter(
    {
      layout: "home",
      description: first,
      hero: { name, text: first, tagline: capitalised(others), actions },
      features,
    },
    rest,
  );
}

/** JSON is YAML. */
function withFrontMatter(data: object, page: string): string {
  const lines = Object.entries(data).map(([key, value]) => `${key}: ${JSON.stringify(value)}`);
  return `---\n${lines.join("\n")}\n---\n\n${page}`;
}
