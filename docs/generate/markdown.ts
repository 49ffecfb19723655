// Tables and marked regions of Markdown pages.

/** Formats a table; cells are padded like those of the formatter. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const cells = [head, ...rows].map((row) => row.map(escapeCell));
  const widths = head.map((_, column) => Math.max(3, ...cells.map((row) => (row[column] ?? "").length)));
  const lineOf = (row: readonly string[]): string =>
    `| ${widths.map((width, column) => (row[column] ?? "").padEnd(width)).join(" | ")} |`;
  const [first = [], ...rest] = cells;
  return [lineOf(first), `| ${widths.map((width) => "-".repeat(width)).join(" | ")} |`, ...rest.map(lineOf)].join("\n");
}

export function code(text: string): string {
  return text === "" ? "" : `\`${text}\``;
}

/** Formats text in angle brackets as code, because Markdown would read it as a tag. */
export function prose(text: string): string {
  const parts = text.split(/(`[^`]*`)/);
  return parts.map((part) => (part.startsWith("`") ? part : part.replaceAll(/<[^<>]+>/g, code))).join("");
}

/** Returns the anchor of a heading. */
export function anchorOf(heading: string): string {
  return heading
    .trim()
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{M}\p{N}\p{Pc}\- ]/gu, "")
    .replaceAll(" ", "-");
}

const BEGIN = (name: string): string => `<!-- npm run docs writes this: ${name} -->`;
/** Last line of a region. */
export const END = "<!-- up to here -->";

/** @throws {Error} if the page has no such region */
export function replaceRegion(page: string, name: string, content: string): string {
  const { from, to } = findRegion(page, name);
  return `${page.slice(0, from)}\n\n${content}\n\n${page.slice(to)}`;
}

/** Returns the present content of a region. */
export function regionOf(page: string, name: string): string {
  const { from, to } = findRegion(page, name);
  return page.slice(from, to).trim();
}

/** Removes the padding of tables. */
export function withoutPadding(markdown: string): string {
  return markdown
    .replaceAll(/-{3,}/g, "---")
    .replaceAll(/[ \t]+/g, " ")
    .trim();
}

function findRegion(page: string, name: string): { readonly from: number; readonly to: number } {
  const begin = page.indexOf(BEGIN(name));
  const from = begin + BEGIN(name).length;
  const to = page.indexOf(END, from);
  if (begin < 0 || to < 0) throw new Error(`Expected a region that begins with ${BEGIN(name)} and ends with ${END}`);
  return { from, to };
}

function escapeCell(text: string): string {
  return prose(text)
    .replaceAll("|", String.raw`\|`)
    .replaceAll("\n", " ");
}
