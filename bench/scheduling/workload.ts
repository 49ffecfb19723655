// Requests of all domains: beginnings of documents, to be continued for a drawn number of tokens.

import { readdir, readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { seededRandom } from "@readme-moe/core";
import type { ReadMeEngine } from "@readme-moe/engine";

export interface Request {
  readonly domain: string;
  readonly prompt: readonly number[];
  readonly outputTokens: number;
}

const [LEAST_PROMPT, MOST_PROMPT] = [16, 96];
const [LEAST_OUTPUT, MOST_OUTPUT] = [8, 56];

/** Requests in turn from each `<domain>.jsonl` of a folder, the same for the same seed. */
export async function requestsOf(
  engine: ReadMeEngine,
  folder: string,
  count: number,
  seed: number,
): Promise<readonly Request[]> {
  const files = (await readdir(folder)).filter((name) => name.endsWith(".jsonl")).toSorted();
  const texts = await Promise.all(
    files.map(async (name) => {
      const lines = (await readFile(join(folder, name), "utf8")).trimEnd().split("\n");
      return { domain: basename(name, ".jsonl"), lines };
    }),
  );
  const random = seededRandom(seed);
  const between = (least: number, most: number): number => least + Math.floor(random() * (most - least + 1));
  const requests: Request[] = [];
  while (requests.length < count) {
    const { domain, lines } = texts[Math.floor(random() * texts.length)] as (typeof texts)[number];
    const { text } = JSON.parse(lines[Math.floor(random() * lines.length)] as string) as { text: string };
    const ids = Array.from(await engine.tokenize(text.slice(0, 2000)));
    const promptTokens = between(LEAST_PROMPT, MOST_PROMPT);
    if (ids.length < promptTokens) continue;
    requests.push({ domain, prompt: ids.slice(0, promptTokens), outputTokens: between(LEAST_OUTPUT, MOST_OUTPUT) });
  }
  return requests;
}
