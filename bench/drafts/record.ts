// Answers of a model with the candidates of each step, one line of JSON for each answer.

import { createWriteStream } from "node:fs";
import { once } from "node:events";
import { ReadMeEngine } from "@readme-moe/engine";
import { chatsOf, type ChatKind, type KindOfChat } from "./chats.ts";

/** An answer and what its steps computed. */
export interface RecordedAnswer {
  readonly kind: ChatKind;
  readonly temperature: number;
  readonly promptIds: readonly number[];
  readonly tokenIds: readonly number[];
  /** The most likely tokens of each step, and their log-probabilities. */
  readonly candidateIds: readonly (readonly number[])[];
  readonly logprobs: readonly (readonly number[])[];
}

export interface RecordOptions {
  readonly model: string;
  readonly data: string;
  readonly perKind: number;
  readonly maxTokens: number;
  readonly path: string;
}

const CANDIDATES = 5;
const TEMPERATURES = [0, 0.7];
const CONCURRENCY = 16;

/** Generates the answers to all chats at each temperature and writes them into a file. */
export async function recordAnswers({ model, data, perKind, maxTokens, path }: RecordOptions): Promise<void> {
  await using engine = await ReadMeEngine.open(model, { precision: "int8" });
  const chats = await chatsOf(data, perKind);
  const work = TEMPERATURES.flatMap((temperature) => chats.map((chat) => ({ chat, temperature }))).entries();
  const file = createWriteStream(path);
  const worker = async (): Promise<void> => {
    for (const [seed, { chat, temperature }] of work) {
      const answer = await answerOf(engine, chat, { temperature, maxTokens, seed });
      file.write(`${JSON.stringify(answer)}\n`);
    }
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, worker));
  file.end();
  await once(file, "finish");
}

async function answerOf(
  engine: ReadMeEngine,
  { kind, messages }: KindOfChat,
  params: { readonly temperature: number; readonly maxTokens: number; readonly seed: number },
): Promise<RecordedAnswer> {
  const promptIds = Array.from(await engine.tokenize({ messages }));
  const tokenIds: number[] = [];
  const candidateIds: number[][] = [];
  const logprobs: number[][] = [];
  for await (const chunk of engine.generate({ prompt: promptIds, params: { ...params, logprobs: CANDIDATES } })) {
    for (const { id, topLogprobs = [] } of chunk.tokens) {
      tokenIds.push(id);
      candidateIds.push(topLogprobs.map((one) => one.id));
      logprobs.push(topLogprobs.map((one) => Math.round(one.logprob * 1000) / 1000));
    }
  }
  return { kind, temperature: params.temperature, promptIds, tokenIds, candidateIds, logprobs };
}
