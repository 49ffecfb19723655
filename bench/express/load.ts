// How requests come: each client after its answer, or by the clock whatever the server does.

import { setTimeout as sleep } from "node:timers/promises";
import { seededRandom } from "@readme-moe/core";
import { post, type Answer } from "./client.ts";

/** Asks for one completion; `index` makes its prompt unlike the others'. */
export type Ask = (index: number) => Promise<Answer>;

const NUM_LENGTHS = 1000;
const SUBJECTS = ["sea", "mountain", "engine", "garden", "letter", "city", "number", "river"];

/** A prompt that shares no beginning with another index's, so that no cache of beginnings helps. */
export function promptOf(index: number): string {
  const subject = SUBJECTS[index % SUBJECTS.length];
  return `${index} was the number of the chapter on the ${subject}, which was larger than anybody had thought, and so`;
}

/**
 * @param maxTokens - of each answer; or of the answer to a prompt, by its index
 */
export function completions(url: string, maxTokens: number | ((index: number) => number), stream: boolean): Ask {
  const sampling = { temperature: 0, ignore_eos: true };
  const streamed = stream ? { stream, stream_options: { include_usage: true } } : {};
  return (index) => {
    const max_tokens = typeof maxTokens === "number" ? maxTokens : maxTokens(index);
    return post(`${url}/v1/completions`, { prompt: promptOf(index), max_tokens, ...sampling, ...streamed });
  };
}

/**
 * From half of `meanTokens` to half more, by the index alone. Answers of one length that begin together end together: their
 * prompts are computed in one step, again and again, which no real traffic does and which is faster.
 */
export function unequalTokens(meanTokens: number): (index: number) => number {
  const random = seededRandom(meanTokens);
  const lengths = Array.from({ length: NUM_LENGTHS }, () => Math.round(meanTokens * (0.5 + random())));
  return (index) => lengths[index % NUM_LENGTHS] ?? meanTokens;
}

/** Clients that each ask again as soon as they have an answer, until `isOver`. */
export async function closedLoop(numClients: number, ask: Ask, isOver: (asked: number) => boolean): Promise<Answer[]> {
  const answers: Answer[] = [];
  let asked = 0;
  const client = async (): Promise<void> => {
    while (!isOver(asked)) answers.push(await ask(asked++));
  };
  await Promise.all(Array.from({ length: numClients }, client));
  return answers;
}

/** Arrivals of a Poisson process, `perSecond` of them on average, for some seconds. */
export async function openLoop(
  perSecond: number,
  seconds: number,
  ask: Ask,
  random: () => number,
): Promise<readonly Answer[]> {
  const answers: Promise<Answer>[] = [];
  const startMs = performance.now();
  for (let atMs = 0; ;) {
    atMs += (-Math.log(1 - random()) * 1000) / perSecond;
    if (atMs > seconds * 1000) break;
    const aheadMs = startMs + atMs - performance.now();
    if (aheadMs > 0) await sleep(aheadMs);
    answers.push(ask(answers.length));
  }
  return Promise.all(answers);
}

/** True from `seconds` after now. */
export function after(seconds: number): () => boolean {
  const endMs = performance.now() + seconds * 1000;
  return () => performance.now() >= endMs;
}
