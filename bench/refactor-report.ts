import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Report } from "@readme-moe/refactor";

/** Reads the report of a model's refactoring; `undefined` without one. */
export async function reportOf(model: string): Promise<Report | undefined> {
  try {
    return JSON.parse(await readFile(join(model, "report.json"), "utf8")) as Report;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw error;
  }
}
