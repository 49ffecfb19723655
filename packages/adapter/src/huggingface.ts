/** `@huggingface/transformers`, with a `pipeline` that runs Read-ME models and what has no ONNX files. */

import * as transformers from "@huggingface/transformers";
import { createPipeline, type ReadMePipeline } from "./pipeline.ts";

export * from "@huggingface/transformers";

/** See `createPipeline`. */
export const pipeline: ReadMePipeline<typeof transformers> = createPipeline(transformers);
