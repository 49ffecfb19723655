// Our engine as packaged: in a process of its own, sampling.

import { type EngineOptions, evaluateSequences, ModelRunner, ReadMeEngine } from "@readme-moe/engine";
import { openModel } from "@readme-moe/model";
import { openRouter } from "@readme-moe/router";
import type { Contender, OpenContender } from "./contender.ts";

export async function openOurs({ spec, paths, threads, maxSequences, seed }: OpenContender): Promise<Contender> {
  const precision = spec.variant as EngineOptions["precision"]; // the engine refuses what it does not know
  const { cacheFolder } = paths;
  const options = { precision, threads, cacheFolder, maxNumSeqs: Math.max(32, maxSequences) };
  let engine: ReadMeEngine | undefined = await ReadMeEngine.open(paths.model, options);
  let numRequests = 0;

  async function complete(prompt: readonly number[], newTokens: number): Promise<void> {
    if (!engine) throw new Error("The engine gave way to the evaluation");
    const params = { temperature: 1, topP: 0.95, seed: seed + numRequests++, maxTokens: newTokens, ignoreEos: true };
    let numTokens = 0;
    for await (const chunk of engine.generate({ prompt, params })) numTokens += chunk.tokens.length;
    if (numTokens !== newTokens) throw new Error(`Expected ${newTokens} new tokens, got ${numTokens}`);
  }

  async function closeEngine(): Promise<void> {
    await engine?.dispose();
    engine = undefined;
  }

  return {
    async generate(prompts, newTokens) {
      await Promise.all(prompts.map((prompt) => complete(prompt, newTokens)));
    },
    async logProbabilities(sequences) {
      await closeEngine();
      // The engine gives log-probabilities of what it generates; those of a text come from the same graph.
      const model = await openModel(paths.model);
      const router = await openRouter(model, undefined, { threads, cacheFolder });
      const runner = await ModelRunner.open(model, { precision, threads, cacheFolder });
      const sums: number[] = [];
      for (const tokenIds of sequences) {
        const { loss, tokens } = await evaluateSequences(runner, router, [Int32Array.from(tokenIds)]);
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
