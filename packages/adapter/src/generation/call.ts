import type { Engine } from "@readme-moe/core";
import type { Generation, HostGenerationConfig, HostLike, HostModel } from "../host/host.ts";
import { insideOf } from "../host/host.ts";
import { processLogits, processorsOf } from "./host-processors.ts";
import type { PaddedPrompt } from "./padded-prompt.ts";
import { runRows, type RowHooks } from "./run-rows.ts";
import { newTokensOf, samplingPlan, type ExtraOptions } from "./sampling.ts";

/** One call of a host's `generate`, as both generations come down to. */
export interface GenerationCall {
  readonly host: HostLike;
  readonly generation: Generation;
  readonly model: HostModel;
  readonly engine: Engine;
  readonly prompts: readonly PaddedPrompt[];
  readonly config: HostGenerationConfig;
  readonly extra: ExtraOptions;
  /** The caller's own. */
  readonly processors: unknown;
}

/** Rows of a call: each prompt's sequences follow each other. */
export interface GeneratedRow extends PaddedPrompt {
  readonly generated: readonly number[];
}

/** One entry for each row that there will be: a prompt as often as sequences of it are wanted. */
export function rowsOf({ prompts, config }: Pick<GenerationCall, "prompts" | "config">): readonly PaddedPrompt[] {
  const count = Math.max(1, config.num_return_sequences ?? 1);
  return prompts.flatMap((prompt) => Array.from({ length: count }, () => prompt));
}

/**
 * @param hooks - made for the rows of `rowsOf`
 * @throws {Error} the host's own words, for what it refuses, too
 */
export async function runCall(call: GenerationCall, hooks: RowHooks): Promise<readonly GeneratedRow[]> {
  const { host, generation, model, engine, config, extra } = call;
  refuse(config, generation);
  const rows = rowsOf(call);
  const promptTokens = rows[0]?.padded.length ?? 0;
  const processors = processorsOf(model, config, generation, promptTokens, call.processors);
  const requests = rows.map((row) => {
    const room = engine.info.contextTokens - row.tokenIds.length;
    const maxTokens = newTokensOf(config, generation, promptTokens, room);
    if (maxTokens === 0) return undefined;
    const { params } = samplingPlan(config, extra, generation, maxTokens, processors !== undefined);
    return {
      prompt: row.tokenIds,
      params: { ...params, seed: seedOf(call) },
      ...(processors ? { processLogits: processLogits(host, processors, generation, row.padded) } : {}),
      ...(extra.expert === undefined ? {} : { expert: extra.expert }),
      ...(extra.priority === undefined ? {} : { priority: extra.priority }),
    };
  });
  const seeds = new Set<number | undefined>();
  for (const request of requests) {
    // Sequences of one prompt and one seed are to differ.
    while (request?.params.seed !== undefined && seeds.has(request.params.seed)) request.params.seed++;
    seeds.add(request?.params.seed);
  }
  const generated = await runRows(engine, requests, hooks, extra.signal);
  return rows.map((row, index) => ({ ...row, generated: generated[index] ?? [] }));
}

/** The newer generation's own generator draws it, so that its `random.seed` makes choices repeatable here as well. */
function seedOf({ host, config, extra }: GenerationCall): number | undefined {
  if (extra.seed !== undefined || !config.do_sample) return extra.seed;
  const { random } = insideOf(host);
  return random && Math.floor(random.random() * 2 ** 47);
}

function refuse(config: HostGenerationConfig, generation: Generation): void {
  const { num_return_sequences: count, num_beams: numBeams, do_sample: isSampling } = config;
  // Beams do nothing in the newer generation.
  if (generation === "xenova" && numBeams > 1) {
    throw new TypeError(`Expected \`num_beams\` to be 1: Read-ME's engine has no beam search, got \`${numBeams}\``);
  }
  if (count > 1 && !isSampling && !(numBeams > 1)) {
    throw new Error(`num_return_sequences has to be 1 when doing greedy search, but is ${count}.`);
  }
}
