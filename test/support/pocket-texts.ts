import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { DomainText, RefactorOptions } from "@readme-moe/refactor";
import { POCKET } from "./pocket.ts";

/** Options of a refactoring that takes seconds. */
export const LITTLE: RefactorOptions = {
  calibrationTokens: 512,
  routerTokens: 512,
  routerSteps: 6,
  evaluationSequences: 1,
  sequenceTokens: 128,
};

/** Options of a refactoring in shards that takes seconds. */
export const SHARDED = { ...LITTLE, baselines: false, routerSteps: 1, shards: 3, threads: 1 } as const;

/** Reads the kinds of text beside the pocket model. */
export async function pocketTexts(names: readonly string[] = ["arxiv", "book", "github"]): Promise<DomainText[]> {
  const texts: DomainText[] = [];
  for (const name of names) {
    const file = join(POCKET, "calibration", `${name}.jsonl`);
    const lines = (await readFile(file, "utf8")).split("\n").filter((line) => line !== "");
    texts.push({ name, files: [file], documents: lines.map((line) => (JSON.parse(line) as { text: string }).text) });
  }
  return texts;
}
