import { badLine, linesOf, parseLine, readTextData } from "./text-data.ts";

/**
 * The documents of a data file: of `.jsonl` (or `.jsonl.gz`) the field `text` of each line, of any other file its whole
 * text.
 * @throws {ReadMeError} naming the file, and the line that is not what it should be
 */
export async function readDocuments(path: string): Promise<readonly string[]> {
  const text = await readTextData(path);
  if (!/\.jsonl(\.gz)?$/.test(path)) return [text];
  return linesOf(text).map(({ line, number }) => documentOf(path, line, number));
}

function documentOf(path: string, line: string, number: number): string {
  const value = parseLine(path, line, number);
  if (typeof value === "object" && value !== null && "text" in value && typeof value.text === "string")
    return value.text;
  throw badLine(path, number, "expected an object with a string `text`");
}
