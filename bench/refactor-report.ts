import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Report } from "@readme-moe/refactor";

/** What a model's refactoring left beside it; `undefined` where it left nothing. */
export async function reportOf(model: string): Promise<Report | undefined> {
  try {
    return JSON.parse(await readFile(join(model, "report.json"), "utf8")) as Report;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw error;
  }
}
