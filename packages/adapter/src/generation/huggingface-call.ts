// The form in which @huggingface/transformers calls `generate`.

import type { Engine } from "@readme-moe/core";
import {
  generationConfig,
  insideOf,
  type HostCriteria,
  type HostGenerationConfig,
  type HostLike,
  type HostModel,
  type HostTensor,
} from "../host.ts";
import {
  type GeneratedRow,
  type PaddedPrompt,
  paddedPrompts,
  rowsOf,
  runCall,
  endTokensOf,
  type ExtraOptions,
} from "./call.ts";
import type { RowHooks } from "./run-rows.ts";

interface Streamer {
  put(tokens: readonly (readonly bigint[])[]): void;
  end(): void;
}

export interface HuggingfaceOptions extends ExtraOptions {
  readonly inputs?: HostTensor | null;
  readonly input_ids?: HostTensor;
  readonly attention_mask?: HostTensor;
  readonly generation_config?: object | null;
  readonly logits_processor?: unknown;
  readonly stopping_criteria?: unknown;
  readonly streamer?: Streamer | null;
  /** Older name of `stop_strings`. */
  readonly stop?: ExtraOptions["stop_strings"];
  readonly [option: string]: unknown;
}

export interface Serving {
  readonly host: HostLike;
  readonly model: HostModel;
  readonly engine: Engine;
  /** Whether decoding leaves out a token. */
  readonly isSpecial: (tokenId: number) => boolean;
}

/** @returns ids `[rows, tokens]` with prompts and padding; shorter rows are padded at their end */
export async function generateForHuggingface(serving: Serving, options: HuggingfaceOptions): Promise<unknown> {
  const { host, model, engine } = serving;
  const {
    inputs,
    input_ids: ids = inputs,
    attention_mask: mask,
    generation_config: own = null,
    logits_processor: processors = null,
    stopping_criteria: criteria = null,
    streamer = null,
    ...rest
  } = options;
  refuseOptions(options);
  const config = generationConfig(model, own, rest);
  if (config.output_attentions) throw refusal("output_attentions", "attention is computed inside the engine");
  if (!ids) throw new TypeError("Expected `input_ids` or `inputs` to be a Tensor of token ids, got none");
  const promptTokens = ids.dims.at(-1) ?? 0;
  // The host fails in its runtime here, with another message for each model.
  if (promptTokens === 0) throw new RangeError("Expected a prompt of at least one token, got an empty one");
  // The host does so before it makes processors.
  if (config.max_new_tokens !== null) config.max_length = promptTokens + config.max_new_tokens;
  const extra = { ...rest, stop_strings: rest.stop_strings ?? rest.stop };
  const shared = { host, generation: "huggingface", model, engine, config, extra, processors } as const;
  const call = { ...shared, prompts: paddedPrompts(ids, mask) };
  const stopping = criteriaOf(host, criteria);
  const pad = paddingOf(config);
  const hooks = hooksOf(rowsOf(call), streamer, stopping, pad);
  const rows = await runCall(call, hooks);
  streamer?.end();
  const sequences = sequencesOf(serving, rows, pad);
  return config.return_dict_in_generate ? { sequences } : sequences;
}

/** Options that mean something in the host and cannot be honoured, with the reason. */
const REFUSED: Readonly<Record<string, string>> = {
  past_key_values: "keys and values stay in the engine, which reuses those of equal beginnings by itself",
  inputs_embeds: "the engine takes token ids",
  position_ids: "the engine numbers positions by `attention_mask`",
};

/** @throws {TypeError} naming the option; also when both names of the prompt are given, as the host refuses */
function refuseOptions(options: HuggingfaceOptions): void {
  if (options.inputs && options.input_ids) {
    throw new TypeError("Expected either `inputs` or `input_ids`, got both");
  }
  for (const [name, why] of Object.entries(REFUSED)) {
    if (options[name] !== undefined && options[name] !== null) throw refusal(name, why);
  }
}

function refusal(name: string, why: string): TypeError {
  return new TypeError(`Expected no \`${name}\`: ${why}`);
}

function criteriaOf(host: HostLike, criteria: unknown): HostCriteria | undefined {
  const { StoppingCriteriaList } = insideOf(host);
  if (!criteria || !StoppingCriteriaList) return undefined;
  const list = new StoppingCriteriaList();
  list.extend(criteria);
  return list;
}

function paddingOf(config: HostGenerationConfig): bigint {
  return BigInt(config.pad_token_id ?? endTokensOf(config)[0] ?? 0);
}

function hooksOf(
  rows: readonly PaddedPrompt[],
  streamer: Streamer | null,
  criteria: HostCriteria | undefined,
  pad: bigint,
): RowHooks {
  if (!streamer && !criteria) return {};
  const all = rows.map(({ padded }) => [...padded]);
  streamer?.put(all.map((row) => [...row]));
  return {
    onStep: (tokens) => {
      const step = tokens.map((token) => (token === undefined ? pad : BigInt(token)));
      step.forEach((token, row) => all[row]?.push(token));
      streamer?.put(step.map((token) => [token]));
      return criteria ? criteria(all) : rows.map(() => false);
    },
    isInterrupted:
      criteria && (() => criteria.criteria.some((one) => "interrupted" in one && one.interrupted === true)),
  };
}

/**
 * Makes a Tensor; or, if rows differ in length and the padding is no special token, so that it would be decoded as
 * text, a list of rows with the `dims` that the host's pipeline reads.
 */
function sequencesOf({ host, isSpecial }: Serving, rows: readonly GeneratedRow[], pad: bigint): unknown {
  const sequences = rows.map(({ padded, generated }) => [...padded, ...generated.map(BigInt)]);
  const length = Math.max(0, ...sequences.map((row) => row.length));
  const isEven = sequences.every((row) => row.length === length);
  if (!isEven && !isSpecial(Number(pad))) return Object.assign(sequences, { dims: [sequences.length] });
  const data = new BigInt64Array(sequences.length * length).fill(pad);
  sequences.forEach((row, index) => data.set(row, index * length));
  return new (insideOf(host).Tensor)("int64", data, [sequences.length, length]);
}
