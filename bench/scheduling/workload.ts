// Requests of all domains: beginnings of documents, each continued for a random number of tokens.

import { seededRandom } from "@readme-moe/core";
import { dataFiles } from "../kit/suite.ts";
import { readDocuments } from "../../packages/readme-moe/src/data-files.ts";

export interface Request {
  readonly domain: string;
  readonly prompt: readonly number[];
  readonly outputTokens: number;
}

const [LEAST_PROMPT, MOST_PROMPT] = [16, 96];
const [LEAST_OUTPUT, MOST_OUTPUT] = [8, 56];

// Number of documents drawn for each request, so that at least one is long enough.
const MOST_DRAWS = 100;

/**
 * Makes requests of all domains, the same for the same seed.
 *
 * @param paths - files by domain, or folders of them
 * @throws {RangeError} when too few documents are as long as prompts
 */
export async function requestsOf(
  engine: { tokenize(text: string): Promise<Int32Array> },
  paths: readonly string[],
  count: number,
  seed: number,
): Promise<readonly Request[]> {
  const texts = await Promise.all(
    (await dataFiles(paths)).map(async ({ name, path }) => ({ domain: name, documents: await readDocuments(path) })),
  );
  const random = seededRandom(seed);
  const between = (least: number, most: number): number => least + Math.floor(random() * (most - least + 1));
  const requests: Request[] = [];
  for (let draw = 0; requests.length < count; draw++) {
    if (draw === MOST_DRAWS * count) {
      throw new RangeError(
        `Expected texts to have ${LEAST_PROMPT} tokens and more, those of ${paths.join(", ")} do not`,
      );
    }
    const { domain, documents } = texts[Math.floor(random() * texts.length)] as (typeof texts)[number];
    const { text } = documents[Math.floor(random() * documents.length)] as (typeof documents)[number];
    const ids = Array.from(await engine.tokenize(text.slice(0, 2000)));
    const promptTokens = between(LEAST_PROMPT, MOST_PROMPT);
    if (ids.length < promptTokens) continue;
    requests.push({ domain, prompt: ids.slice(0, promptTokens), outputTokens: between(LEAST_OUTPUT, MOST_OUTPUT) });
  }
  return requests;
}
