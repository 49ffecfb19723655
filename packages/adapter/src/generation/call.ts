// One call of a host's `generate`, in the form that both generations are reduced to.

import {
  type Engine,
  type GenerateRequest,
  type SAMPLING_PARAMETERS,
  type SamplingNameWith,
  type SamplingParams,
  samplingParametersWith,
} from "@readme-moe/core";
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

/** Names of the parameters that leave tokens out. */
type TruncationName = (typeof SAMPLING_PARAMETERS)[SamplingNameWith<"transformers">]["transformers"];
type Truncation = Readonly<Partial<Record<TruncationName, number | null>>>;

/** Options that the hosts do not have, or have and ignore. */
export interface ExtraOptions extends Truncation {
  /** Texts that end the generation; the result includes them, as in Python's transformers. */
  readonly stop_strings?: string | readonly string[] | null | undefined;
  /** Makes sampling repeatable, whatever else runs. */
  readonly seed?: number | undefined;
  /** One expert for every token, by name or index, instead of the model's router. */
  readonly expert?: string | number | undefined;
  readonly priority?: number | undefined;
  /** A text or token ids that all rows are expected to repeat. Saves time where it is right; changes no token. */
  readonly prediction?: GenerateRequest["prediction"];
  readonly signal?: AbortSignal | undefined;
}

/**
 * @param config - resolved by the host
 * @param row - `maxTokens` is from `newTokensOf`; `isProcessed`: the host's processors do penalties and temperature
 */
function samplingOf(
  config: HostGenerationConfig,
  extra: ExtraOptions,
  row: { readonly generation: Generation; readonly maxTokens: number; readonly isProcessed: boolean },
): Omit<SamplingParams, "seed"> {
  const { generation, maxTokens, isProcessed } = row;
  const temperature = config.do_sample ? (config.temperature ?? 1) : 0;
  // The newer generation's processors have already divided by the temperature.
  const isDivided = isProcessed && generation === "huggingface" && config.do_sample;
  const stops = extra.stop_strings ?? [];
  return {
    maxTokens,
    temperature: isDivided ? 1 : temperature,
    // Every parameter is given: the host has applied the model's own defaults, and its processors the penalty.
    ...truncation(config, extra),
    ...(isProcessed ? { repetitionPenalty: 1 } : penalties(config, maxTokens)),
    // The host's end tokens may differ from the model's.
    ignoreEos: true,
    stopTokenIds: endTokensOf(config),
    stop: typeof stops === "string" ? [stops] : stops,
  };
}

/** Returns the parameters that leave tokens out, of those that the host resolves and of those that it ignores. */
function truncation({ do_sample: isSampled, ...config }: Truncation & HostGenerationConfig, extra: Truncation) {
  return Object.fromEntries(
    samplingParametersWith("transformers").map(([name, { transformers, default: neutral }]) => [
      name,
      isSampled ? (config[transformers] ?? extra[transformers] ?? neutral) : neutral,
    ]),
  ) satisfies SamplingParams;
}

function penalties(config: HostGenerationConfig, maxTokens: number): SamplingParams {
  const minTokens = Math.min(config.min_new_tokens ?? 0, maxTokens);
  return { repetitionPenalty: config.repetition_penalty ?? 1, minTokens };
}

export function endTokensOf({ eos_token_id: ids }: HostGenerationConfig): readonly number[] {
  if (ids === null || ids === undefined) return [];
  return typeof ids === "number" ? [ids] : ids;
}

/**
 * Counts the most tokens that a row gets. The newer generation always generates one, the older none if the prompt is
 * already as long as `max_length`.
 *
 * @param promptTokens - with padding, which `max_length` counts
 * @param roomTokens - room in the model's context
 */
function newTokensOf(
  config: HostGenerationConfig,
  generation: Generation,
  promptTokens: number,
  roomTokens: number,
): number {
  const { max_new_tokens: maxNew, max_length: maxLength } = config;
  const wanted = maxNew ?? (maxLength === null ? Infinity : maxLength - promptTokens);
  const least = generation === "huggingface" ? 1 : 0;
  return Math.max(least, Math.min(wanted, Math.max(1, roomTokens)));
}
