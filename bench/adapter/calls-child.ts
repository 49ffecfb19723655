// Process with both pipelines, which run the same concurrent calls.

import { monitorEventLoopDelay } from "node:perf_hooks";
import * as huggingface from "@huggingface/transformers";
import { createPipeline } from "@readme-moe/adapter";

/** Pipeline of the host, with or without the adapter. */
export interface PipelineSpec {
  readonly path: string;
  /** `"import changed"` has the host's own options; `"engine"` also asks for the engine. */
  readonly runs: "host" | "import changed" | "engine";
  readonly dtype: "fp32" | "q8" | "q4";
}

export interface CallsRequest {
  /** Pipelines, opened on first use. */
  readonly pipeline: PipelineSpec;
  readonly prompts: readonly string[];
  /** Tokens of each answer; none ends early. */
  readonly newTokens: number;
}

export interface CallsAnswer {
  readonly elapsedMs: number;
  /** Delay of the event loop, including the monitor's own period of 1 ms. */
  readonly loopP99Ms: number;
  readonly texts: readonly string[];
}

huggingface.env.allowRemoteModels = false;
const ours = createPipeline(huggingface);

type Generate = (prompt: string, options: object) => Promise<readonly { readonly generated_text: string }[]>;
const opened = new Map<string, Promise<Generate>>();

function open({ path, runs, dtype }: PipelineSpec): Promise<Generate> {
  const name = `${runs} ${path}`;
  const opening =
    opened.get(name) ??
    ((runs === "host"
      ? huggingface.pipeline("text-generation", path, { dtype })
      : ours(
          "text-generation",
          path,
          runs === "engine" ? { dtype, engine: "readme-moe" } : { dtype },
        )) as Promise<unknown> as Promise<Generate>);
  opened.set(name, opening);
  return opening;
}

async function answer({ pipeline, prompts, newTokens }: CallsRequest): Promise<CallsAnswer> {
  const generate = await open(pipeline);
  const options = {
    max_new_tokens: newTokens,
    min_new_tokens: newTokens,
    return_full_text: false,
    do_sample: false,
  };
  const loop = monitorEventLoopDelay({ resolution: 1 });
  loop.enable();
  const startMs = performance.now();
  const results = await Promise.all(prompts.map((prompt) => generate(prompt, options)));
  const elapsedMs = performance.now() - startMs;
  loop.disable();
  const texts = results.map(([one]) => one?.generated_text ?? "");
  return { elapsedMs, loopP99Ms: loop.percentile(99) / 1e6, texts };
}

// The parent is gone, and nothing else would end this process.
process.once("disconnect", () => process.exit());
process.on("message", (request: CallsRequest) => {
  void answer(request).then(
    (result) => process.send?.(result),
    (error: unknown) => process.send?.({ failure: error instanceof Error ? error.message : String(error) }),
  );
});
