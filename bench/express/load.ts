// Loads: closed loops, in which each client waits for its answer, and open loops, which send at given times.

import { setTimeout as sleep } from "node:timers/promises";
import { seededRandom } from "@readme-moe/core";
import { post, type Answer } from "./client.ts";

/** Requests one completion; `index` makes its prompt different from the others. */
export type Ask = (index: number) => Promise<Answer>;

const NUM_LENGTHS = 1000;
const LOAD_STEP = 100_000;
/** Counts loads from 10, so that the numbers in all prompts have seven digits and prompts are equally long. */
let numLoads = 10;
const SUBJECTS = ["sea", "mountain", "engine", "garden", "letter", "city", "number", "river"];

/** Makes a prompt that shares no prefix with other indices, so that no prefix cache applies. */
export function promptOf(index: number): string {
  const subject = SUBJECTS[index % SUBJECTS.length];
  return `${index} was the number of the chapter on the ${subject}, which was larger than anybody had thought, and so`;
}

/** Makes prompts that no other load has, because speculation learns from earlier answers. */
export function promptsOfLoad(): (index: number) => string {
  const first = LOAD_STEP * numLoads++;
  return (index) => promptOf(first + index);
}

/**
 * Makes a load of completions with prompts of its own.
 *
 * @param maxTokens - of each answer, or a function of its index in the load
 */
export function completions(url: string, maxTokens: number | ((index: number) => number), stream: boolean): Ask {
  const sampling = { temperature: 0, ignore_eos: true };
  const streamed = stream ? { stream, stream_options: { include_usage: true } } : {};
  const prompt = promptsOfLoad();
  return (index) => {
    const max_tokens = typeof maxTokens === "number" ? maxTokens : maxTokens(index);
    return post(`${url}/v1/completions`, { prompt: prompt(index), max_tokens, ...sampling, ...streamed });
  };
}

/**
 * Returns a length from half of `meanTokens` to half more, by the index. Answers of one length that begin together end
 * together, so that their successors' prompts share a step, which is faster than real traffic.
 */
export function unequalTokens(meanTokens: number): (index: number) => number {
  const random = seededRandom(meanTokens);
  const lengths = Array.from({ length: NUM_LENGTHS }, () => Math.round(meanTokens * (0.5 + random())));
  return (index) => lengths[index % NUM_LENGTHS] ?? meanTokens;
}

/** Runs clients that each send the next request after an answer, until `isOver`. */
export async function closedLoop(numClients: number, ask: Ask, isOver: (asked: number) => boolean): Promise<Answer[]> {
  const answers: Answer[] = [];
  let asked = 0;
  const client = async (): Promise<void> => {
    while (!isOver(asked)) answers.push(await ask(asked++));
  };
  await Promise.all(Array.from({ length: numClients }, client));
  return answers;
}

/** Sends requests as a Poisson process with `perSecond` arrivals on average, for some seconds. */
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

/** Returns a function that is true after `seconds` from now. */
export function after(seconds: number): () => boolean {
  const endMs = performance.now() + seconds * 1000;
  return () => performance.now() >= endMs;
}
