// Measures batches of requests on both engines by turns, and compares every answer with the expected one.

import { type Engine, seededRandom } from "@readme-moe/core";
import { type Answer, answerOf, type Processor } from "./answer.ts";
import { type Variant, VARIANTS } from "./engines.ts";
import type { PlannedRequest } from "./plan.ts";
import { type StepCounts, StepMeter, sumOfCounts } from "./step-meter.ts";
import { firstDifference } from "./tokens.ts";

const WARM_UP_SEED = 20_261_128;

/** An answer has other tokens than it has without speculation. */
export class AnswerDiffers extends Error {
  override readonly name = "AnswerDiffers";
}

/** Times of one batch of requests that began together. */
export interface BatchTimes {
  /** Time from the first start to the last end. */
  readonly allMs: number;
  /** Tokens of all answers. */
  readonly tokens: number;
  /** Time in which all prompts had run: from the last first token to the last end. */
  readonly decodeMs: number;
  /** Tokens in this time. */
  readonly decodeTokens: number;
  /** Time of each answer's first token. */
  readonly firstMs: readonly number[];
}

/** Figures of one kind, number of requests and round. */
export interface RoundFigures extends BatchTimes {
  readonly counts: StepCounts;
}

/** Rounds of both engines. */
export type Rounds = Readonly<Record<Variant, readonly RoundFigures[]>>;

/** Computes the times of a batch from its answers. */
export function batchTimes(answers: readonly Pick<Answer, "startMs" | "tokenMs">[]): BatchTimes {
  const startMs = Math.min(...answers.map((answer) => answer.startMs));
  const endMs = Math.max(...answers.map(({ tokenMs }) => tokenMs.at(-1) ?? NaN));
  const lastFirstMs = Math.max(...answers.map(({ tokenMs }) => tokenMs[0] ?? NaN));
  const all = answers.flatMap(({ tokenMs }) => tokenMs);
  return {
    allMs: endMs - startMs,
    tokens: all.length,
    decodeMs: endMs - lastFirstMs,
    decodeTokens: all.filter((ms) => ms > lastFirstMs).length,
    firstMs: answers.map((answer) => (answer.tokenMs[0] ?? NaN) - answer.startMs),
  };
}

/** @throws {AnswerDiffers} naming the request and the place */
export function checkAnswer(request: PlannedRequest, answer: Pick<Answer, "tokenIds" | "finishReason">): void {
  const { expected, kind, name } = request;
  const at = firstDifference(expected.tokenIds, answer.tokenIds);
  if (at !== undefined) {
    const tokens = `Expected token ${expected.tokenIds[at] ?? "none"} at ${at}, got ${answer.tokenIds[at] ?? "none"}`;
    throw new AnswerDiffers(`${kind}, ${name}: ${tokens}`);
  }
  if (expected.finishReason !== answer.finishReason) {
    throw new AnswerDiffers(
      `${kind}, ${name}: Expected to end by ${expected.finishReason}, got ${answer.finishReason}`,
    );
  }
}

/** One engine and its meter. */
interface Measured {
  readonly engine: Engine;
  readonly meter: StepMeter;
}

function measuredEngine(engine: Engine): Measured {
  return { engine, meter: new StepMeter(engine.events) };
}

/** Runs requests that begin together. */
async function runBatch(
  { engine, meter }: Measured,
  requests: readonly PlannedRequest[],
  processorOf: Processor,
): Promise<RoundFigures> {
  meter.take();
  const answers = await Promise.all(requests.map((request) => answerOf(engine, request, processorOf)));
  const counts = meter.take();
  for (const [index, answer] of answers.entries()) checkAnswer(requests[index] as PlannedRequest, answer);
  return { ...batchTimes(answers), counts };
}

export interface MeasureOptions {
  /** Opens both engines. Each round has new ones, because an engine remembers what it has generated. */
  readonly open: () => Promise<AsyncDisposable & Readonly<Record<Variant, Engine>>>;
  readonly requests: readonly PlannedRequest[];
  /** Requests at once. */
  readonly atOnce: number;
  readonly rounds: number;
  readonly processorOf: Processor;
}

/** Measures all batches of requests, each batch on both engines within seconds. */
export async function measureRounds({ open, requests, atOnce, rounds, processorOf }: MeasureOptions): Promise<Rounds> {
  const batches = batchesOf(requests, atOnce);
  const figures: Record<Variant, RoundFigures[]> = { without: [], with: [] };
  for (let round = 0; round < rounds; round++) {
    await using opened = await open();
    for (const variant of VARIANTS) await warmUp(opened[variant]);
    const engines = { without: measuredEngine(opened.without), with: measuredEngine(opened.with) };
    const own: Record<Variant, RoundFigures[]> = { without: [], with: [] };
    for (const [index, batch] of batches.entries()) {
      for (const variant of orderOf(round + index)) {
        own[variant].push(await runBatch(engines[variant], batch, processorOf));
      }
    }
    for (const variant of VARIANTS) figures[variant].push(sumOfFigures(own[variant]));
  }
  return figures;
}

/** Runs steps that say nothing about the requests: random tokens. */
export async function warmUp(engine: Engine): Promise<void> {
  const random = seededRandom(WARM_UP_SEED);
  const prompt = Array.from({ length: 64 }, () => Math.floor(random() * engine.info.vocabSize));
  const params = { maxTokens: 64, temperature: 5, seed: WARM_UP_SEED, ignoreEos: true };
  for await (const _ of engine.generate({ prompt, params }));
}

/** Alternates which engine goes first. */
function orderOf(turn: number): readonly Variant[] {
  return turn % 2 === 0 ? VARIANTS : VARIANTS.toReversed();
}

/** Cuts requests into batches of similar length, so that few wait for a last one; a smaller rest is left out. */
export function batchesOf(requests: readonly PlannedRequest[], atOnce: number): readonly (readonly PlannedRequest[])[] {
  const sorted = requests.toSorted((a, b) => a.expected.tokenIds.length - b.expected.tokenIds.length);
  const numBatches = Math.floor(sorted.length / atOnce);
  return Array.from({ length: numBatches }, (_, index) => sorted.slice(index * atOnce, (index + 1) * atOnce));
}

function sumOfFigures(all: readonly RoundFigures[]): RoundFigures {
  const sum = (of: (figures: RoundFigures) => number): number => all.reduce((total, one) => total + of(one), 0);
  return {
    allMs: sum(({ allMs }) => allMs),
    tokens: sum(({ tokens }) => tokens),
    decodeMs: sum(({ decodeMs }) => decodeMs),
    decodeTokens: sum(({ decodeTokens }) => decodeTokens),
    firstMs: all.flatMap(({ firstMs }) => firstMs),
    counts: sumOfCounts(all.map(({ counts }) => counts)),
  };
}
