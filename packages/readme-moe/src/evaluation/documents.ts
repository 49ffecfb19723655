import { badLine, linesOf, parseLine, readTextData } from "./text-data.ts";

/** One document of a data file. */
export interface TextDocument {
  readonly text: string;
  /** As its line gives it. */
  readonly license?: string | undefined;
}

/**
 * The documents of a data file: of `.jsonl` (or `.jsonl.gz`) the field `text` of each line, and `license` where there is one;
 * of any other file its whole text.
 * @throws {ReadMeError} naming the file, and the line that is not what it should be
 */
export async function readDocuments(path: string): Promise<readonly TextDocument[]> {
  const text = await readTextData(path);
  if (!/\.jsonl(\.gz)?$/.test(path)) return [{ text }];
  return linesOf(text).map(({ line, number }) => documentOf(path, line, number));
}

function documentOf(path: string, line: string, number: number): TextDocument {
  const value = parseLine(path, line, number);
  if (typeof value === "object" && value !== null && "text" in value && typeof value.text === "string") {
    const license = "license" in value && typeof value.license === "string" ? value.license : undefined;
    return { text: value.text, license };
  }
  throw badLine(path, number, "expected an object with a string `text`");
}
