// Text of an answer as it arrives, and the parts of calls that are read from it. A reader is a generator that waits
// for more text by `yield`, so that how the text is cut has no influence, and each character is read once.

import { isRecord } from "@readme-moe/core";

/** Reads text that may not have arrived yet. */
export type Reading<Result> = Generator<void, Result, void>;

/** Arrived text: what was taken since a call may have begun, and the rest. */
export class CallInput {
  rest = "";
  /** Text that was taken, and becomes content if it is no call. */
  held = "";
  /** The end of what was taken, since `recent` was emptied. */
  recent = "";
  /** Whether no more text comes. */
  isEnded = false;

  take(length: number): string {
    const text = this.rest.slice(0, length);
    this.rest = this.rest.slice(length);
    this.held += text;
    this.recent += text;
    return text;
  }

  /** Forgets what was taken. */
  clear(): void {
    [this.held, this.recent] = ["", ""];
  }
}

/** Returns the next character without taking it; an empty text at the end. */
export function* peek(input: CallInput): Reading<string> {
  while (input.rest === "" && !input.isEnded) yield;
  return input.rest.charAt(0);
}

/** Takes characters while they match. */
export function* takeWhile(input: CallInput, pattern: RegExp, most = Infinity): Reading<string> {
  let text = "";
  while (text.length < most && pattern.test(yield* peek(input))) text += input.take(1);
  return text;
}

/** Takes the white space of JSON. */
export function* takeBlanks(input: CallInput): Reading<void> {
  yield* takeWhile(input, /[ \t\r\n]/);
}

/** Takes one of some texts, if the text goes on with one: the longest. @returns the text that was taken */
export function* takeMark(input: CallInput, marks: readonly string[]): Reading<string | undefined> {
  while (!input.isEnded && marks.some((mark) => isWithin(input.rest, mark))) yield;
  const found = marks
    .filter((mark) => input.rest.startsWith(mark))
    .reduce<string | undefined>((longest, mark) => (mark.length > (longest?.length ?? -1) ? mark : longest), undefined);
  if (found !== undefined) input.take(found.length);
  return found;
}

/** Whether a text ends before it can be told from a mark. */
export function isWithin(text: string, mark: string): boolean {
  return text.length < mark.length && mark.startsWith(text);
}

/** Takes text up to a mark, and the mark. @returns the text before it; `undefined` if it does not come */
export function* takeUntil(input: CallInput, mark: string): Reading<string | undefined> {
  let text = "";
  for (;;) {
    const at = input.rest.indexOf(mark);
    text += input.take(at === -1 ? input.rest.length - overlapLength(input.rest, [mark]) : at);
    if (at !== -1) {
      input.take(mark.length);
      return text;
    }
    if (input.isEnded) return undefined;
    yield;
  }
}

/** Returns the length of the longest end of `text` that is a beginning of a mark, and no whole one. */
export function overlapLength(text: string, marks: readonly string[]): number {
  const most = Math.max(0, ...marks.map(({ length }) => length - 1));
  for (let at = Math.max(0, text.length - most); at < text.length; at++) {
    const end = text.slice(at);
    if (marks.some((mark) => isWithin(end, mark))) return end.length;
  }
  return 0;
}

/** Takes a JSON string. @returns its value; `undefined` if there is none */
export function* takeString(input: CallInput): Reading<string | undefined> {
  if ((yield* peek(input)) !== '"') return undefined;
  let text = input.take(1);
  for (let isEscaped = false; ;) {
    const next = yield* peek(input);
    if (next === "") return undefined;
    text += input.take(1);
    if (isEscaped) isEscaped = false;
    else if (next === "\\") isEscaped = true;
    else if (next === '"') break;
  }
  const value = jsonOf(text);
  return typeof value === "string" ? value : undefined;
}

/**
 * Takes a JSON object or array, and passes on its pieces as they arrive.
 * @returns its text; `undefined` if it is cut short, or is another value
 */
export function* takeValue(input: CallInput, onPiece?: (text: string) => void): Reading<string | undefined> {
  if (!"{[".includes((yield* peek(input)) || " ")) return undefined;
  const scanner = new ValueScanner();
  let text = "";
  for (;;) {
    const { length, isEnd } = scanner.scan(input.rest);
    const piece = input.take(length);
    text += piece;
    if (piece !== "") onPiece?.(piece);
    if (isEnd) return text;
    if (input.isEnded) return undefined;
    yield;
  }
}

/** Finds the end of a JSON object or array that arrives in pieces. */
class ValueScanner {
  #depth = 0;
  #isInString = false;
  #isEscaped = false;

  /** @returns the length of the value's part in `text`, and whether the value is complete */
  scan(text: string): { readonly length: number; readonly isEnd: boolean } {
    for (let index = 0; index < text.length; index++) {
      const character = text[index];
      if (this.#isInString) {
        if (this.#isEscaped) this.#isEscaped = false;
        else if (character === "\\") this.#isEscaped = true;
        else if (character === '"') this.#isInString = false;
        continue;
      }
      if (character === '"') this.#isInString = true;
      else if (character === "{" || character === "[") this.#depth++;
      else if ((character === "}" || character === "]") && --this.#depth <= 0) {
        return { length: index + 1, isEnd: true };
      }
    }
    return { length: text.length, isEnd: false };
  }
}

/** Parses JSON in whose strings line breaks and tabs may be unescaped, as models write them. */
export function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // Tried below.
  }
  try {
    return JSON.parse(
      text.replaceAll(/"(?:[^"\\]|\\[^])*"/g, (string) =>
        string.replaceAll(/[\n\r\t]/g, (blank) => JSON.stringify(blank).slice(1, -1)),
      ),
    );
  } catch {
    return undefined;
  }
}

/** Returns the value of JSON; the text itself where it is none. */
export function valueOf(text: string): unknown {
  const value = jsonOf(text);
  return value === undefined ? text : value;
}

/** Writes arguments as JSON; `undefined` for what is no object, or is nested too deeply to be written. */
export function objectJson(value: unknown): string | undefined {
  try {
    return isRecord(value) ? JSON.stringify(value) : undefined;
  } catch {
    return undefined;
  }
}

/** Writes the JSON of arguments anew, as every client can parse it; `undefined` as `objectJson`. */
export function argumentsJson(text: string | undefined): string | undefined {
  return text === undefined ? undefined : objectJson(jsonOf(text));
}

/** Parses the arguments of a call; `undefined` as `objectJson`, such as where they were cut off. */
export function parsedArguments(text: string): Readonly<Record<string, unknown>> | undefined {
  const value = jsonOf(text);
  return isRecord(value) && objectJson(value) !== undefined ? value : undefined;
}
