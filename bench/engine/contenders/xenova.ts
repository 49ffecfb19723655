// transformers.js 2 with the exported graphs. It gains nothing from batches, and runs all prompts as one.

import { pathToFileURL } from "node:url";
import type { Contender, OpenContender } from "../contender.ts";
import { sumLogProbabilities } from "./log-probabilities.ts";
import { tokenInputs } from "./token-inputs.ts";

/** Used part of the library. */
interface Library {
  readonly env: { allowRemoteModels: boolean; localModelPath: string };
  readonly Tensor: new (type: "int64", data: BigInt64Array, dims: readonly number[]) => Tensor;
  readonly AutoModelForCausalLM: { from_pretrained(folder: string, options: object): Promise<Model> };
}

interface Tensor {
  readonly data: Float32Array;
}

interface Model {
  (inputs: Readonly<Record<string, Tensor>>): Promise<{ readonly logits: Tensor }>;
  generate(inputs: Tensor, config: object, processors: null, options: object): Promise<readonly (readonly number[])[]>;
  dispose(): Promise<unknown>;
}

export async function open({ spec, threads }: OpenContender): Promise<Contender> {
  const { library = "", model: folder = "" } = spec.files;
  const { env, Tensor, AutoModelForCausalLM } = (await import(pathToFileURL(library).href)) as Library;
  env.allowRemoteModels = false;
  env.localModelPath = "";
  const session = { intraOpNumThreads: threads, interOpNumThreads: 1 };
  const options = { quantized: spec.variant === "q8", session_options: session };
  const model = await AutoModelForCausalLM.from_pretrained(folder, options);

  return {
    async generate(prompts, newTokens) {
      const startMs = performance.now();
      let firstMs = NaN;
      const callback_function = (): void => {
        if (Number.isNaN(firstMs)) firstMs = performance.now() - startMs;
      };
      const forced = { min_new_tokens: newTokens, max_new_tokens: newTokens, do_sample: false, callback_function };
      const { input_ids: ids, attention_mask } = tokenInputs(Tensor, prompts);
      const answers = await model.generate(ids, forced, null, { inputs_attention_mask: attention_mask });
      const expected = (prompts[0]?.length ?? 0) + newTokens;
      const other = answers.find((answer) => answer.length !== expected);
      if (other) throw new Error(`Expected ${expected} tokens a row, got ${other.length}`);
      return prompts.map(() => firstMs);
    },
    async logProbabilities(sequences) {
      const sums: number[] = [];
      for (const tokenIds of sequences) {
        const { logits } = await model(tokenInputs(Tensor, [tokenIds]));
        sums.push(sumLogProbabilities(logits.data, tokenIds));
      }
      return sums;
    },
    async dispose() {
      await model.dispose();
    },
  };
}
