// The list of unreleased changes in CHANGELOG.md, made from the changesets.

import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { END, regionOf, replaceRegion } from "./markdown.ts";
import { ROOT } from "./read-members.ts";

/** Name of the region of CHANGELOG.md that has the list. */
export const UNRELEASED = "unreleased changes";

const FOLDER = join(ROOT, ".changeset");
const KINDS = ["Added", "Changed", "Removed", "Fixed"] as const;
type Kind = (typeof KINDS)[number];

/** Joins the items of all changesets by kind; `first-release.md` comes last, since it lists everything before it. */
export async function unreleasedChanges(): Promise<string> {
  const names = (await readdir(FOLDER)).filter((name) => name.endsWith(".md") && name !== "README.md");
  const ordered = names.toSorted(
    (one, other) => Number(isFirst(one)) - Number(isFirst(other)) || (one < other ? -1 : 1),
  );
  const changes: { readonly kind: Kind; readonly items: string }[] = [];
  for (const name of ordered) changes.push(...readChanges(name, await readFile(join(FOLDER, name), "utf8")));
  return KINDS.map((kind) => ({ kind, items: changes.filter((change) => change.kind === kind) }))
    .filter(({ items }) => items.length > 0)
    .map(({ kind, items }) => `### ${kind}\n\n${items.map((change) => change.items).join("\n")}`)
    .join("\n\n");
}

/** Moves the unreleased changes of a changelog to a section of their own, and leaves their region empty. */
export function released(changelog: string, version: string, date: Date): string {
  const changes = regionOf(changelog, UNRELEASED);
  const section = `## ${version} (${date.toISOString().slice(0, 10)})\n\n${changes}`;
  return replaceRegion(changelog, UNRELEASED, "").replace(END, `${END}\n\n${section}`);
}

function isFirst(name: string): boolean {
  return name === "first-release.md";
}

/**
 * Reads a changeset: headings `### Added` and so on with a text each, or a text alone. Without a heading, a patch is
 * a fix. @throws {Error} if it has no text or another heading
 */
function readChanges(name: string, text: string): readonly { readonly kind: Kind; readonly items: string }[] {
  const [, head = "", body = ""] = /^---\n([^]*?)\n---\n([^]*)$/.exec(text) ?? [];
  const [plain = "", ...parts] = body.split(/^### /m);
  const titled = parts.map((part) => part.split(/\n([^]*)/) as [string, string]);
  const untitled = [/: (?:major|minor)$/m.test(head) ? "Added" : "Fixed", plain] as const;
  const changes = [untitled, ...titled].flatMap(([title, content]) => {
    const kind = KINDS.find((each) => each === title.trim());
    if (!kind) throw new Error(`.changeset/${name}: expected one of the headings ${KINDS.join(", ")}, got ${title}`);
    return content.trim() === "" ? [] : [{ kind, items: asItems(content.trim()) }];
  });
  if (changes.length === 0) throw new Error(`.changeset/${name}: expected a text after the packages`);
  return changes;
}

/** Makes a text one item of a list, unless it is a list. */
function asItems(text: string): string {
  return text.startsWith("- ") ? text : `- ${text.replaceAll(/\n(?=.)/g, "\n  ")}`;
}
