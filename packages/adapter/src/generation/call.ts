// One call of a host's `generate`, in the form that both generations are reduced to.

import type { Engine, GenerateRequest } from "@readme-moe/core";
import {
  type Generation,
  type HostGenerationConfig,
  type HostLike,
  type HostModel,
  type HostProcessors,
  type HostTensor,
  insideOf,
  logitsProcessors,
} from "../host.ts";
import { runRows, type RowHooks } from "./run-rows.ts";
import { newTokensOf, samplingOf, type ExtraOptions } from "./sampling-params.ts";

export interface GenerationCall {
  readonly host: HostLike;
  readonly generation: Generation;
  readonly model: HostModel;
  readonly engine: Engine;
  readonly prompts: readonly PaddedPrompt[];
  readonly config: HostGenerationConfig;
  readonly extra: ExtraOptions;
  /** Logits processors in the caller's options. */
  readonly processors: unknown;
}

/** One row of a batch that the host's tokenizer padded on the left. */
export interface PaddedPrompt {
  /** Token ids with their padding. */
  readonly padded: readonly bigint[];
  /** Token ids that the mask keeps. */
  readonly tokenIds: Int32Array;
}

/** Rows of a call; those of the same prompt follow each other. */
export interface GeneratedRow extends PaddedPrompt {
  readonly generated: readonly number[];
}

/**
 * Splits a tensor into rows.
 * @param ids - `[rows, tokens]`
 * @param mask - like `ids`, 0 for padding; `undefined` without padding
 */
export function paddedPrompts(ids: HostTensor, mask: HostTensor | undefined): readonly PaddedPrompt[] {
  const [numRows = 0, numTokens = 0] = ids.dims;
  return Array.from({ length: numRows }, (_, row) => {
    const start = row * numTokens;
    const padded = Array.from(ids.data.subarray(start, start + numTokens));
    const own = mask ? padded.filter((_id, column) => Number(mask.data[start + column]) !== 0) : padded;
    return { padded, tokenIds: Int32Array.from(own, Number) };
  });
}

/** Lists each prompt once for each of its sequences. */
export function rowsOf({ prompts, config }: Pick<GenerationCall, "prompts" | "config">): readonly PaddedPrompt[] {
  const count = Math.max(1, config.num_return_sequences ?? 1);
  return prompts.flatMap((prompt) => Array.from({ length: count }, () => prompt));
}

/**
 * Generates all rows of a call.
 * @param hooks - made for the rows of `rowsOf`
 * @throws {Error} also in the host's own words, for options that it refuses
 */
export async function runCall(call: GenerationCall, hooks: RowHooks): Promise<readonly GeneratedRow[]> {
  const { generation, engine, config, extra } = call;
  refuse(config, generation);
  const rows = rowsOf(call);
  const promptTokens = rows[0]?.padded.length ?? 0;
  const processors = processorsOf(call, promptTokens);
  const requests = rows.map((row) => {
    const roomTokens = engine.info.contextTokens - row.tokenIds.length;
    const maxTokens = newTokensOf(config, generation, promptTokens, roomTokens);
    if (maxTokens === 0) return undefined;
    const params = samplingOf(config, extra, { generation, maxTokens, isProcessed: processors !== undefined });
    return {
      prompt: row.tokenIds,
      params: { ...params, seed: seedOf(call) },
      ...(processors ? { processLogits: processLogits(call, processors, row.padded) } : {}),
      ...(extra.expert === undefined ? {} : { expert: extra.expert }),
      ...(extra.priority === undefined ? {} : { priority: extra.priority }),
      ...(extra.prediction === undefined ? {} : { prediction: extra.prediction }),
    };
  });
  const seeds = new Set<number | undefined>();
  for (const request of requests) {
    // Sequences of one prompt and one seed must differ.
    while (request?.params.seed !== undefined && seeds.has(request.params.seed)) request.params.seed++;
    seeds.add(request?.params.seed);
  }
  const generated = await runRows(engine, requests, hooks, extra.signal);
  return rows.map((row, index) => ({ ...row, generated: generated[index] ?? [] }));
}

/**
 * Lists the host's and the caller's logits processors; `undefined` when the engine's sampling does the same, with the
 * same numbers, so that no logits have to leave the engine.
 */
function processorsOf(call: GenerationCall, promptTokens: number): HostProcessors | undefined {
  const { model, config, generation, processors } = call;
  // Always made, since it also warns: the newer generation treats temperature 0 as greedy search, and prints that.
  const all = logitsProcessors(model, config, promptTokens, processors);
  const without = { ...config, do_sample: false, min_new_tokens: null };
  // The older generation's penalty counts every occurrence of a token; the engine's counts a token once.
  if (generation === "huggingface") without.repetition_penalty = null;
  const rest = logitsProcessors(model, without, promptTokens, processors);
  return rest.processors.length > 0 ? all : undefined;
}

/**
 * Runs the host's logits processors in the caller's thread on the engine's logits.
 * @param padded - the prompt with its padding, as the processors expect it
 */
function processLogits(
  { host, generation }: GenerationCall,
  processors: HostProcessors,
  padded: readonly bigint[],
): NonNullable<GenerateRequest["processLogits"]> {
  const { Tensor } = insideOf(host);
  return (logits, { tokenIds, promptTokens }) => {
    const generated = Array.from(tokenIds.subarray(promptTokens));
    if (generation === "huggingface") {
      const ids = [...padded, ...generated.map(BigInt)];
      return processors([ids], new Tensor("float32", logits, [1, logits.length])).data;
    }
    // The older generation changes the logits in place, through views of the same memory.
    processors([...padded.map(Number), ...generated], new Tensor("float32", logits, [1, 1, logits.length]));
    return logits;
  };
}

/** Draws the seed with the newer generation's own generator, so that its `random.seed` makes sampling repeatable. */
function seedOf({ host, config, extra }: GenerationCall): number | undefined {
  if (extra.seed !== undefined || !config.do_sample) return extra.seed;
  const { random } = insideOf(host);
  return random && Math.floor(random.random() * 2 ** 47);
}

function refuse(config: HostGenerationConfig, generation: Generation): void {
  const { num_return_sequences: count, num_beams: numBeams, do_sample: isSampling } = config;
  // The newer generation ignores beams.
  if (generation === "xenova" && numBeams > 1) {
    throw new TypeError(`Expected \`num_beams\` to be 1: Read-ME's engine has no beam search, got \`${numBeams}\``);
  }
  if (count > 1 && !isSampling && !(numBeams > 1)) {
    throw new Error(`num_return_sequences has to be 1 when doing greedy search, but is ${count}.`);
  }
}
