/** `@huggingface/transformers`, with loaders that run text generation in the engine. */

import * as transformers from "@huggingface/transformers";
import { type AutoClasses, createAutoClasses, createPipeline, type ReadMePipeline } from "./loaders.ts";

export * from "@huggingface/transformers";

/** See `createPipeline`. */
export const pipeline: ReadMePipeline<typeof transformers> = createPipeline(transformers);

const autoClasses: AutoClasses<typeof transformers> = createAutoClasses(transformers);

/** See `createAutoClasses`. */
export const AutoModelForCausalLM: typeof transformers.AutoModelForCausalLM = autoClasses.AutoModelForCausalLM;
export type AutoModelForCausalLM = transformers.AutoModelForCausalLM;

/** See `createAutoClasses`. */
export const AutoTokenizer: typeof transformers.AutoTokenizer = autoClasses.AutoTokenizer;
export type AutoTokenizer = transformers.AutoTokenizer;
