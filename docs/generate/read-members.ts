// Reads members of interfaces with their comments from TypeScript sources. Sources are formatted alike, so the reader needs
// to understand only brackets, strings and comments.

import { readFile } from "node:fs/promises";
import { join } from "node:path";

export const ROOT: string = join(import.meta.dirname, "..", "..");

/** A member of an interface, or of an object type. */
export interface Member {
  readonly name: string;
  /** The type as written, without `| undefined`. */
  readonly type: string;
  readonly isOptional: boolean;
  /** The member's comment, on one line, without tags. */
  readonly text: string;
  /** The comment's text after `@default`. */
  readonly fallback: string | undefined;
}

/**
 * Reads the members of an interface, or of a table that is an exported constant.
 * @throws {Error} if the file has none of this name, or one without members
 */
export async function membersOf(file: string, name: string): Promise<readonly Member[]> {
  const source = await readFile(join(ROOT, file), "utf8");
  const start = new RegExp(`(interface|type|const) ${name}\\b[^{]*\\{`).exec(source);
  if (!start) throw new Error(`${file}: has no interface ${name}`);
  const members = membersIn(source.slice(start.index + start[0].length), start[1] === "const" ? "," : ";");
  if (members.length === 0) throw new Error(`${file}: nothing was found in ${name}`);
  return members;
}

/** Reads the values of a union of strings, as in `"a" | "b"`. @throws {Error} if the file has no such union */
export async function unionOf(file: string, name: string): Promise<string> {
  const source = await readFile(join(ROOT, file), "utf8");
  const values = new RegExp(`type ${name} =\\s*((?:\\|?\\s*"[^"]*"\\s*)+);`).exec(source)?.[1];
  if (values === undefined) throw new Error(`${file}: has no union ${name}`);
  return (values.match(/"[^"]*"/g) ?? []).join(" | ");
}

/**
 * @param body - an object, or its type, from after its opening brace, at least up to the closing one
 * @param separator - of members
 */
export function membersIn(body: string, separator: ";" | "," = ";"): readonly Member[] {
  const members: Member[] = [];
  let depth = 0;
  let comment = "";
  let from = 0;
  for (let at = 0; at < body.length; at++) {
    const rest = body.slice(at);
    const skipped = /^\/\*[\s\S]*?\*\/|^\/\/.*|^"(?:[^"\\]|\\.)*"/.exec(rest)?.[0];
    if (skipped !== undefined) {
      if (depth === 0 && skipped.startsWith("/")) {
        comment = skipped.startsWith("/*") ? skipped : comment;
        from = at + skipped.length;
      }
      at += skipped.length - 1;
    } else if ("{([".includes(body.charAt(at))) depth++;
    else if ("})]".includes(body.charAt(at))) depth--;
    // The last member of a type on one line has no semicolon.
    if (depth < 0 || (depth === 0 && body[at] === separator)) {
      const member = memberOf(body.slice(from, at), comment);
      if (member) members.push(member);
      if (depth < 0) break;
      comment = "";
      from = at + 1;
    }
  }
  return members;
}

/** @returns nothing for a member that is not a property, such as a method */
function memberOf(text: string, comment: string): Member | undefined {
  const match = /^\s*(?:readonly\s+)?(?:"([^"]+)"|(\w+))(\??)\s*:\s*([\s\S]+)$/.exec(text);
  if (!match) return undefined;
  const [, quoted, bare = "", optional, type = ""] = match;
  return {
    name: quoted ?? bare,
    // Comments within the type stay, because `membersIn` may read its own members.
    type: type
      .replaceAll(/\n\s*\* /g, " ")
      .replaceAll(/\s+/g, " ")
      .replace(/^\| /, "")
      .replace(/ \| undefined$/, "")
      .trim(),
    isOptional: optional === "?" || type.trimEnd().endsWith("| undefined"),
    ...readComment(comment),
  };
}

/** Splits a comment into its text and its default. */
export function readComment(comment: string): Pick<Member, "text" | "fallback"> {
  const words = comment
    .replace(/^\/\*\*/, "")
    .replace(/\*\/$/, "")
    .replaceAll(/^\s*\* ?/gm, "")
    .replaceAll(/\s+/g, " ")
    .trim();
  const [text = "", ...tags] = ` ${words}`.split(/ (?=@(?:default|throws|param|returns|see)\b)/);
  const fallback = tags
    .find((tag) => tag.startsWith("@default"))
    ?.replace("@default", "")
    .trim();
  return { text: text.trim(), fallback };
}
