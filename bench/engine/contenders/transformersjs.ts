// transformers.js with the exported graphs; a batch is one call with all prompts.

import { pathToFileURL } from "node:url";
import type { Contender, OpenContender } from "../contender.ts";
import { sumLogProbabilities } from "./log-probabilities.ts";
import { tokenInputs } from "./token-inputs.ts";

/** Used part of the library, which is not a dependency of this repository. */
interface Library {
  readonly env: { allowRemoteModels: boolean };
  readonly Tensor: new (type: "int64", data: BigInt64Array, dims: readonly number[]) => Tensor;
  readonly pipeline: (task: string, folder: string, options: object) => Promise<Pipeline>;
}

interface Tensor {
  readonly data: Float32Array | BigInt64Array;
  readonly dims: readonly number[];
}

interface Pipeline {
  readonly model: {
    (inputs: Readonly<Record<string, Tensor>>): Promise<{ readonly logits: Tensor }>;
    generate(options: object): Promise<Tensor>;
  };
  dispose(): Promise<void>;
}

export async function open({ spec, threads }: OpenContender): Promise<Contender> {
  const { library = "", model: folder = "" } = spec.files;
  const { env, Tensor, pipeline } = (await import(pathToFileURL(library).href)) as Library;
  env.allowRemoteModels = false;
  // More than one inter-op thread would use more cores than allowed.
  const session = { intraOpNumThreads: threads, interOpNumThreads: 1 };
  const options = { dtype: spec.variant, session_options: session };
  const { model, dispose } = await pipeline("text-generation", folder, options).then((generator) => ({
    model: generator.model,
    dispose: () => generator.dispose(),
  }));

  return {
    async generate(prompts, newTokens) {
      const startMs = performance.now();
      const arrivalsMs: number[] = [];
      // Called with the prompts, and then with the tokens of each step of all prompts.
      const streamer = { put: () => void arrivalsMs.push(performance.now() - startMs), end: () => undefined };
      const forced = { min_new_tokens: newTokens, max_new_tokens: newTokens, do_sample: false, streamer };
      const { dims } = await model.generate({ ...tokenInputs(Tensor, prompts), ...forced });
      const expected = (prompts[0]?.length ?? 0) + newTokens;
      if (dims[1] !== expected) throw new Error(`Expected ${expected} tokens a row, got ${dims[1]}`);
      return prompts.map(() => arrivalsMs[1] ?? NaN);
    },
    async logProbabilities(sequences) {
      const sums: number[] = [];
      for (const tokenIds of sequences) {
        const { logits } = await model(tokenInputs(Tensor, [tokenIds]));
        sums.push(sumLogProbabilities(logits.data as Float32Array, tokenIds));
      }
      return sums;
    },
    dispose,
  };
}
