import { readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "vitest";

/** Returns the folder of the only entry of packed weights; fails when there is any other file, such as a builder's. */
export async function onlyEntry(cache: string): Promise<string> {
  const names = await readdir(join(cache, "kernels"));
  expect(names).toEqual([expect.stringMatching(/^[0-9a-f]{40}$/)]);
  const entry = join(cache, "kernels", names[0] as string);
  expect((await readdir(entry)).toSorted()).toEqual(["entry.json", "note.txt", "weights.bin"]);
  return entry;
}

/** The likeliest damages of an entry, by name. */
export const ENTRY_DAMAGES: Readonly<Record<string, (entry: string) => Promise<void>>> = {
  "the weights cut short": (entry) => truncate(join(entry, "weights.bin"), 100),
  "a byte of the weights changed": (entry) => flipByte(join(entry, "weights.bin"), 1000),
  "the note cut short": (entry) => truncate(join(entry, "note.txt"), 4),
  "a byte of the note changed": (entry) => flipByte(join(entry, "note.txt"), 3),
  "the description missing": (entry) => rm(join(entry, "entry.json")),
  "the description garbled": (entry) => flipByte(join(entry, "entry.json"), 30),
  "a file in place of the folder": async (entry) => {
    await rm(entry, { recursive: true });
    await writeFile(entry, "not a folder");
  },
};

async function flipByte(path: string, at: number): Promise<void> {
  const bytes = await readFile(path);
  bytes[at] = (bytes[at] as number) ^ 1;
  await writeFile(path, bytes);
}
