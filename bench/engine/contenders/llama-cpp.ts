// node-llama-cpp with one context, in which a sequence for each prompt is evaluated together with the others.

import { pathToFileURL } from "node:url";
import type { Contender, OpenContender } from "../contender.ts";

/** Used part of the library, which is not a dependency of this repository. */
interface Library {
  readonly getLlama: (options: object) => Promise<{
    loadModel(options: object): Promise<Model>;
    dispose(): Promise<void>;
  }>;
}

interface Model {
  createContext(options: object): Promise<Context>;
}

interface Context {
  getSequence(): Sequence;
  dispose(): Promise<void>;
}

interface Sequence {
  evaluate(tokens: readonly number[], options: object): AsyncIterable<number>;
  controlledEvaluate(input: readonly unknown[]): Promise<readonly (TokenResult | undefined)[]>;
  clearHistory(): Promise<void>;
}

interface TokenResult {
  readonly next: { readonly logits?: ReadonlyMap<number, number>; readonly totalLogitWeight?: number };
}

// Logits are those after sampling filters, which keep 40 tokens by default.
const UNFILTERED = { temperature: 1, topK: 0, topP: 1, minP: 0 };
// A completely full context would shift its contents.
const SPARE_TOKENS = 16;

export async function open({ spec, threads }: OpenContender): Promise<Contender> {
  const { library = "", model: modelPath = "" } = spec.files;
  const { getLlama } = (await import(pathToFileURL(library).href)) as Library;
  const llama = await getLlama({ build: "never", gpu: false, maxThreads: threads, logLevel: "error" });
  const model = await llama.loadModel({ modelPath });
  let context: Context | undefined;
  let sequences: readonly Sequence[] = [];

  async function reserve(count: number, tokensEach: number): Promise<void> {
    await context?.dispose();
    // The size counts for one sequence.
    context = await model.createContext({ sequences: count, contextSize: tokensEach + SPARE_TOKENS, threads });
    const made = context;
    sequences = Array.from({ length: count }, () => made.getSequence());
  }

  return {
    reserve,
    async generate(prompts, newTokens) {
      return Promise.all(prompts.map((prompt, index) => complete(sequences[index], prompt, newTokens)));
    },
    async logProbabilities(texts) {
      await reserve(1, Math.max(...texts.map((text) => text.length)));
      const sums: number[] = [];
      for (const tokenIds of texts) sums.push(await sumLogProbabilities(sequences[0], tokenIds));
      return sums;
    },
    async dispose() {
      await context?.dispose();
      await llama.dispose();
    },
  };
}

/** @returns the time of its first token */
async function complete(sequence: Sequence | undefined, prompt: readonly number[], newTokens: number): Promise<number> {
  if (!sequence) throw new Error("Expected a sequence for this prompt, got none");
  const startMs = performance.now();
  // A sequence continues behind its last answer otherwise, and shifts its context when that is full.
  await sequence.clearHistory();
  let [numTokens, firstMs] = [0, NaN];
  for await (const _ of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
    if (++numTokens === 1) firstMs = performance.now() - startMs;
    if (numTokens === newTokens) break;
  }
  if (numTokens !== newTokens) throw new Error(`Expected ${newTokens} new tokens, got ${numTokens}`);
  return firstMs;
}

async function sumLogProbabilities(sequence: Sequence | undefined, tokenIds: readonly number[]): Promise<number> {
  if (!sequence) throw new Error("Expected a sequence for this text, got none");
  await sequence.clearHistory();
  const input = tokenIds.map((token, position) => {
    const target = tokenIds[position + 1];
    if (target === undefined) return token;
    // Whole rows would be maps of 50,000 entries for each token. `includeMax` is not used: it omits the largest logit
    // unless it is included already.
    const logits = { filter: { tokens: [target], includeTop: 1 } };
    return [token, { generateNext: { logits, totalLogitWeight: true, options: UNFILTERED } }];
  });
  const results = await sequence.controlledEvaluate(input);
  let sum = 0;
  for (const [position, target] of tokenIds.entries()) {
    if (position === 0) continue;
    const { logits, totalLogitWeight } = results[position - 1]?.next ?? {};
    const logit = logits?.get(target);
    if (!logits || logit === undefined || totalLogitWeight === undefined)
      throw new Error("Expected logits of a token, got none");
    sum += logit - Math.max(...logits.values()) - Math.log(totalLogitWeight);
  }
  return sum;
}
