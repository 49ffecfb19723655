/** `@huggingface/transformers`, with a `pipeline` that also runs Read-ME models and models without ONNX files. */

import * as transformers from "@huggingface/transformers";
import { createPipeline, type ReadMePipeline } from "./pipeline.ts";

export * from "@huggingface/transformers";

/** See `createPipeline`. */
export const pipeline: ReadMePipeline<typeof transformers> = createPipeline(transformers);
