// Our engine as published: in its own process, with sampling.

import { type EngineOptions, KernelRunner, kvPrecisionOf, ReadMeEngine } from "@readme-moe/engine";
import { evaluateSequences } from "@readme-moe/engine/evaluation";
import { kvBytesPerToken, type KvPrecision } from "@readme-moe/kernel";
import { openModel } from "@readme-moe/model";
import { openRouter } from "@readme-moe/router";
import type { Contender, OpenContender } from "../contender.ts";

/** Tokens that one sequence gets by default, whatever its keys and values take. */
const DEFAULT_TOKENS = 4096;
/** Keys and values are held in whole blocks. */
const SPARE_TOKENS = 1024;

export async function open(given: OpenContender): Promise<Contender> {
  const { spec, threads, maxSequences, tokensEach = 0, seed, cacheFolder } = given;
  // A variant such as "int8+fp32" also names the precision of keys and values; the engine refuses unknown values.
  const [precision, kvPrecision] = spec.variant.split("+") as [
    EngineOptions["precision"],
    EngineOptions["kvPrecision"],
  ];
  const path = spec.files["model"] ?? "";
  const options = {
    precision,
    kvPrecision,
    threads,
    cacheFolder,
    maxNumSeqs: Math.max(32, maxSequences),
    ...(tokensEach > DEFAULT_TOKENS
      ? { kvCacheBytes: await kvBytesOf(path, kvPrecisionOf(precision, kvPrecision), maxSequences * tokensEach) }
      : {}),
  };
  let engine: ReadMeEngine | undefined = await ReadMeEngine.open(path, options);
  let numRequests = 0;

  /** @returns the time of the first token, in ms from the call */
  async function complete(prompt: readonly number[], newTokens: number): Promise<number> {
    if (!engine) throw new Error("The engine was closed for the evaluation");
    const startMs = performance.now();
    const params = { temperature: 1, topP: 0.95, seed: seed + numRequests++, maxTokens: newTokens, ignoreEos: true };
    let [numTokens, firstMs] = [0, NaN];
    for await (const chunk of engine.generate({ prompt, params })) {
      if (numTokens === 0 && chunk.tokens.length > 0) firstMs = performance.now() - startMs;
      numTokens += chunk.tokens.length;
    }
    if (numTokens !== newTokens) throw new Error(`Expected ${newTokens} new tokens, got ${numTokens}`);
    return firstMs;
  }

  async function closeEngine(): Promise<void> {
    await engine?.dispose();
    engine = undefined;
  }

  return {
    generate: (prompts, newTokens) => Promise.all(prompts.map((prompt) => complete(prompt, newTokens))),
    async logProbabilities(sequences) {
      await closeEngine();
      // The engine gives log-probabilities of generated tokens only; those of a text come from the same kernel steps.
      const model = await openModel(path);
      const router = await openRouter(model, undefined, { threads, cacheFolder });
      const runner = await KernelRunner.open(model, { precision, kvPrecision, threads, cacheFolder });
      const sums: number[] = [];
      for (const tokenIds of sequences) {
        const { loss, tokens } = await evaluateSequences({ runner, router }, [Int32Array.from(tokenIds)]);
        sums.push(-loss * tokens);
      }
      await runner.dispose();
      await router.dispose();
      await model.close();
      return sums;
    },
    dispose: closeEngine,
  };
}

/** Counts the bytes of keys and values. */
async function kvBytesOf(path: string, precision: KvPrecision, tokens: number): Promise<number> {
  const model = await openModel(path);
  await model.close();
  return kvBytesPerToken(model.config, precision) * (tokens + SPARE_TOKENS);
}
