import { ReadMeError } from "@readme-moe/core";
import { readTextFile } from "@readme-moe/model";

const MAX_DATA_BYTES = 512 << 20;

/**
 * The documents of a data file: of `.jsonl` the field `text` of each line, of any other file its whole text.
 * @throws {ReadMeError} naming the file, and the line that is not what it should be
 */
export async function readDocuments(path: string): Promise<readonly string[]> {
  const text = await readTextFile(path, MAX_DATA_BYTES);
  if (text === undefined) throw new ReadMeError("ERR_FILE_NOT_FOUND", `${path}: no such file`);
  if (!path.endsWith(".jsonl")) return [text];
  return text.split("\n").flatMap((line, index) => (line.trim() === "" ? [] : [documentOf(path, line, index + 1)]));
}

function documentOf(path: string, line: string, number: number): string {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (cause) {
    throw new ReadMeError("ERR_FILE_CORRUPT", `${path}:${number}: is not JSON`, { cause });
  }
  if (typeof value === "object" && value !== null && "text" in value && typeof value.text === "string")
    return value.text;
  throw new ReadMeError("ERR_FILE_CORRUPT", `${path}:${number}: expected an object with a string \`text\``);
}
