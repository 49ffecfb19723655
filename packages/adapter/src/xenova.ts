/** `@xenova/transformers`, with loaders that run text generation and encoders in the engine. */

import * as transformers from "@xenova/transformers";
import { type AutoClasses, createAutoClasses, createPipeline, type ReadMePipeline } from "./loaders.ts";

export * from "@xenova/transformers";

/** See `createPipeline`. */
export const pipeline: ReadMePipeline<typeof transformers> = createPipeline(transformers);

const autoClasses: AutoClasses<typeof transformers> = createAutoClasses(transformers);

/** See `createAutoClasses`. */
export const AutoModel: typeof transformers.AutoModel = autoClasses.AutoModel;
export type AutoModel = transformers.AutoModel;

/** See `createAutoClasses`. */
export const AutoModelForMaskedLM: typeof transformers.AutoModelForMaskedLM = autoClasses.AutoModelForMaskedLM;
export type AutoModelForMaskedLM = transformers.AutoModelForMaskedLM;

/** See `createAutoClasses`. */
export const AutoModelForSequenceClassification: typeof transformers.AutoModelForSequenceClassification =
  autoClasses.AutoModelForSequenceClassification;
export type AutoModelForSequenceClassification = transformers.AutoModelForSequenceClassification;

/** See `createAutoClasses`. */
export const AutoModelForTokenClassification: typeof transformers.AutoModelForTokenClassification =
  autoClasses.AutoModelForTokenClassification;
export type AutoModelForTokenClassification = transformers.AutoModelForTokenClassification;

/** See `createAutoClasses`. */
export const AutoModelForCausalLM: typeof transformers.AutoModelForCausalLM = autoClasses.AutoModelForCausalLM;
export type AutoModelForCausalLM = transformers.AutoModelForCausalLM;

/** See `createAutoClasses`. */
export const AutoTokenizer: typeof transformers.AutoTokenizer = autoClasses.AutoTokenizer;
export type AutoTokenizer = transformers.AutoTokenizer;
