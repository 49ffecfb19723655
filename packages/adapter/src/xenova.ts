/** `@xenova/transformers`, with a `pipeline` that also runs Read-ME models and models without ONNX files. */

import * as transformers from "@xenova/transformers";
import { createPipeline, type ReadMePipeline } from "./pipeline.ts";

export * from "@xenova/transformers";

/** See `createPipeline`. */
export const pipeline: ReadMePipeline<typeof transformers> = createPipeline(transformers);
