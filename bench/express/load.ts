// How requests come: each client after its answer, or by the clock whatever the server does.

import { setTimeout as sleep } from "node:timers/promises";
import { post, type Answer } from "./client.ts";

/** Asks for one completion; `index` makes its prompt unlike the others'. */
export type Ask = (index: number) => Promise<Answer>;

const SUBJECTS = ["sea", "mountain", "engine", "garden", "letter", "city", "number", "river"];

/** A prompt that shares no beginning with another index's, so that no cache of beginnings helps. */
export function promptOf(index: number): string {
  const subject = SUBJECTS[index % SUBJECTS.length];
  return `${index} was the number of the chapter on the ${subject}, which was larger than anybody had thought, and so`;
}

export function completions(url: string, maxTokens: number, stream: boolean): Ask {
  const sampling = { temperature: 0, ignore_eos: true, max_tokens: maxTokens };
  const streamed = stream ? { stream, stream_options: { include_usage: true } } : {};
  return (index) => post(`${url}/v1/completions`, { prompt: promptOf(index), ...sampling, ...streamed });
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
