// Rewrites Python's regular expressions, in which PEFT's configs name modules, as JavaScript's.

import { PatternError } from "@readme-moe/core";

const MAX_CHARACTERS = 16_384;

/** Escapes that mean something else in JavaScript, or nothing. */
const ESCAPES: ReadonlyMap<string, string> = new Map([
  ["A", "^"],
  ["Z", "$"],
  ["a", String.raw`\x07`],
  ["d", String.raw`\p{Nd}`],
  ["D", String.raw`\P{Nd}`],
  ["w", String.raw`[\p{L}\p{N}_]`],
  ["W", String.raw`[^\p{L}\p{N}_]`],
]);
/** Parts that stand for themselves, or for what they do in JavaScript. */
const PLAIN = /^(?:\\[nrtfvbBsS]|\\x[\da-fA-F]{2}|\\u[\da-fA-F]{4}|\(\?(?:[:=!]|<[=!])|[()|*+?^$]|\{\d+(?:,\d*)?\})/;

/** An expression of JavaScript. */
interface Rewritten {
  readonly source: string;
  readonly ignoresCase: boolean;
}

/** @throws {PatternError} naming what is wrong */
export function fromPython(text: string): Rewritten {
  if (text.length > MAX_CHARACTERS) throw new PatternError(`more than ${MAX_CHARACTERS} characters`);
  const [flags = "", names = ""] = /^\(\?([aiLmsu]+)\)/.exec(text) ?? [];
  let source = "";
  for (let rest = text.slice(flags.length); rest !== "";) {
    const [length, written] = nextPart(rest);
    source += written;
    rest = rest.slice(length);
  }
  return { source, ignoresCase: names.includes("i") };
}

/** Rewrites the first part of an expression. @returns also its length */
function nextPart(rest: string): readonly [number, string] {
  const [comment] = /^\(\?#[^)]*\)/.exec(rest) ?? [];
  if (comment !== undefined) return [comment.length, ""];
  const [named, name] = /^\(\?P(<[^>]*>)/.exec(rest) ?? [];
  if (named !== undefined) return [named.length, `(?${name}`];
  const [plain] = PLAIN.exec(rest) ?? [];
  if (plain !== undefined) return [plain.length, plain];
  const [upTo, most] = /^\{,(\d+)\}/.exec(rest) ?? [];
  if (upTo !== undefined) return [upTo.length, `{0,${most}}`];
  if (rest.startsWith("[")) return classPart(rest);
  if (rest.startsWith(".")) return [1, String.raw`[^\n]`];
  if (rest.startsWith("\\")) return escapePart(rest);
  const [character = ""] = rest;
  return [character.length, literal(character)];
}

function escapePart(rest: string): readonly [number, string] {
  const [letter] = rest.slice(1);
  if (letter === undefined) throw new PatternError("an end that comes too early");
  const known = ESCAPES.get(letter);
  if (known !== undefined) return [2, known];
  if (/[A-Za-z0-9]/.test(letter)) throw new PatternError(`\`\\${letter}\``);
  return [1 + letter.length, literal(letter)];
}

/** Rewrites a class. JavaScript's has no class of characters that are no letters within another. */
function classPart(rest: string): readonly [number, string] {
  const [start = "[", not = ""] = /^\[(\^?)/.exec(rest) ?? [];
  let [at, members, others] = [start.length, "", ""];
  // A bracket in the first place stands for itself.
  for (let isFirst = true; isFirst || rest[at] !== "]"; isFirst = false) {
    const [plain] = /^\\(?:[nrtfvbsS]|x[\da-fA-F]{2}|u[\da-fA-F]{4})/.exec(rest.slice(at, at + 6)) ?? [];
    const [character] = rest.slice(at, at + 2);
    if (character === undefined) throw new PatternError("an end that comes too early");
    if (plain !== undefined) {
      [members, at] = [members + plain, at + plain.length];
    } else if (character === "\\") {
      const [length, written] = escapePart(rest.slice(at));
      at += length;
      if (written === ESCAPES.get("W")) others = written;
      else members += written.startsWith("[") ? written.slice(1, -1) : written;
    } else {
      members += character === "-" ? character : literal(character);
      at += character.length;
    }
  }
  const own = `[${not}${members}]`;
  if (others === "") return [at + 1, own];
  if (not === "") return [at + 1, members === "" ? others : `(?:${own}|${others})`];
  return [at + 1, `(?!${others})${own}`];
}

/** Writes a character that stands for itself. */
function literal(character: string): string {
  return /[\p{L}\p{N}_]/u.test(character) ? character : `\\u{${character.codePointAt(0)?.toString(16)}}`;
}
