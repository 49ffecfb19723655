// The engine's core on the thread that runs the model, with sequences that all decode.

import {
  fcfs,
  resolveSamplingParams,
  type PreGatingRouter,
  type SamplingParams,
  StopAutomaton,
} from "@readme-moe/core";
import type { Tokenizer } from "@readme-moe/model";
import { EngineCore } from "../packages/engine/src/engine-core.ts";
import type { EngineOutput } from "../packages/engine/src/engine-parts.ts";
import { KvAdmission } from "../packages/engine/src/kv-admission.ts";
import { PrefixCache } from "../packages/engine/src/prefix-cache.ts";
import type { StepRunner } from "../packages/engine/src/step-runner.ts";

export interface DecodingCore {
  readonly core: EngineCore;
}

export interface DecodingCoreOptions {
  readonly runner: StepRunner;
  readonly tokenizer: Tokenizer;
  readonly router: PreGatingRouter;
  readonly numSeqs: number;
  /** Tokens of each prompt. */
  readonly past: number;
  /** Steps that memory is reserved for. */
  readonly rounds: number;
  /** @default greedy */
  readonly params?: SamplingParams;
  readonly onEvent: EngineOutput["event"];
}

/** Opens a core whose sequences all decode, with a past of about `past` tokens. */
export async function decodingCore(options: DecodingCoreOptions): Promise<DecodingCore> {
  const { runner, tokenizer, router, numSeqs, past, rounds, params = { temperature: 0 }, onEvent } = options;
  const { contextTokens } = runner.model.config;
  const capacityTokens = numSeqs * (Math.ceil((past + rounds + 64) / 64) * 64 + 64);
  const pool = runner.openKv({ capacityTokens });
  const prefixes = new PrefixCache(pool, { chunkTokens: 128, maxBytes: 0 });
  const admission = new KvAdmission(pool, prefixes, { maxNumSeqs: numSeqs, contextTokens });
  const core = new EngineCore({
    runner,
    tokenizer,
    admission,
    scheduler: fcfs(),
    limits: { maxNumBatchedSeqs: numSeqs, maxNumBatchedTokens: 512, chunkTokens: 128 },
    contextTokens,
    output: {
      accepted: () => undefined,
      reading: () => undefined,
      chunk: () => undefined,
      ask: () => undefined,
      failed: (_, error) => {
        throw error;
      },
      event: onEvent,
    },
    now: () => performance.now(),
  });
  const resolved = resolveSamplingParams({ ...params, maxTokens: 1000, ignoreEos: true }, runner.model.config);
  for (let index = 0; index < numSeqs; index++) {
    const promptIds = Array.from({ length: past }, (_, position) => 100 + ((index * 31 + position * 7) % 900));
    const id = `${index}`;
    const start = {
      id,
      requestId: id,
      choice: 0,
      arrival: index,
      arrivalMs: 0,
      priority: 0,
      promptIds,
      params: resolved,
      processesLogits: false,
      seed: 1,
    };
    core.add({ ...start, stops: new StopAutomaton([]) }, router);
  }
  do await core.step();
  while (pool.usedTokens === 0 || core.stats().completionTokens < 8 * numSeqs);
  return { core };
}
