// What an engine's events say, counted. One listener per event and engine, and a few numbers per sequence under way.

import type { Engine } from "@readme-moe/core";
import { REQUEST_SECONDS, SMALL_COUNTS, STEP_SECONDS, TOKEN_COUNTS, TOKEN_SECONDS } from "./buckets.ts";
import type { Instruments } from "./instruments.ts";

/** Of a sequence that has not finished. */
interface Underway {
  firstTokenMs?: number;
  preemptions: number;
}

const VLLM = { isVllm: true } as const;

/** @returns a function that counts what an engine does, under a model's name */
export function engineMetrics(instruments: Instruments): (name: string, engine: Engine) => void {
  const counter = (name: string, help: string, labelNames?: readonly string[]) =>
    instruments.counter({ name, help, ...(labelNames && { labelNames }), ...VLLM });
  const histogram = (name: string, help: string, buckets: readonly number[]) =>
    instruments.histogram({ name, help, ...VLLM }, buckets);
  const own = (name: string, help: string, buckets: readonly number[]) =>
    instruments.histogram({ name, help }, buckets);

  const promptTokens = counter("prompt_tokens_total", "Tokens of prompts that were taken in");
  const generationTokens = counter("generation_tokens_total", "Tokens that were generated");
  const prefixQueries = counter("prefix_cache_queries_total", "Prompt tokens looked for in the prefix cache");
  const prefixHits = counter("prefix_cache_hits_total", "Prompt tokens found in the prefix cache");
  const preemptions = counter("num_preemptions_total", "Sequences that gave their KV memory to others");
  const finished = counter("request_success_total", "Sequences that ended, by reason", [
    "model_name",
    "finished_reason",
  ]);
  const tokenSeconds = histogram("inter_token_latency_seconds", "Between two tokens of a sequence", TOKEN_SECONDS);
  const queueSeconds = histogram("request_queue_time_seconds", "Until a sequence first ran", REQUEST_SECONDS);
  const inferenceSeconds = histogram("request_inference_time_seconds", "From running to the end", REQUEST_SECONDS);
  const prefillSeconds = histogram("request_prefill_time_seconds", "From running to the first token", REQUEST_SECONDS);
  const decodeSeconds = histogram("request_decode_time_seconds", "From the first token to the end", REQUEST_SECONDS);
  const promptSizes = histogram("request_prompt_tokens", "Tokens of a prompt", TOKEN_COUNTS);
  const completionSizes = histogram("request_generation_tokens", "Tokens of a completion", TOKEN_COUNTS);
  const preemptionsOf = histogram("request_num_preemptions", "Preemptions of a sequence", SMALL_COUNTS);
  const stepTokens = histogram("iteration_tokens_total", "Tokens of a step", TOKEN_COUNTS);
  const stepSeconds = own("step_duration_seconds", "Time of a step", STEP_SECONDS);
  const stepError = own("step_prediction_error_seconds", "How far a step's time was from the expected", STEP_SECONDS);
  const uniqueExperts = own("batch_unique_experts", "Distinct experts of a step", SMALL_COUNTS);

  const watched = new WeakSet<Engine>();
  return (name, engine) => {
    // It may have been exchanged for another and back, or have two names: it is counted once, under the first.
    if (watched.has(engine)) return;
    watched.add(engine);
    const labels = { model_name: name };
    const sequences = new Map<string, Underway>();
    const underway = (id: string): Underway => {
      const known = sequences.get(id) ?? { preemptions: 0 };
      sequences.set(id, known);
      return known;
    };
    engine.events
      .on("sequence:queued", (event) => {
        promptTokens.inc(labels, event.promptTokens);
        underway(event.sequenceId);
      })
      .on("sequence:preempted", ({ sequenceId }) => {
        preemptions.inc(labels);
        underway(sequenceId).preemptions++;
      })
      .on("token:generated", ({ sequenceId, isFirst, sinceMs }) => {
        generationTokens.inc(labels);
        if (isFirst) underway(sequenceId).firstTokenMs = sinceMs;
        else tokenSeconds.observe(labels, sinceMs / 1000);
      })
      .on("sequence:finished", (event) => {
        const { firstTokenMs, preemptions: count = 0 } = sequences.get(event.sequenceId) ?? {};
        sequences.delete(event.sequenceId);
        finished.inc({ ...labels, finished_reason: event.reason });
        prefixQueries.inc(labels, event.promptTokens);
        prefixHits.inc(labels, event.cachedTokens);
        queueSeconds.observe(labels, event.queuedMs / 1000);
        promptSizes.observe(labels, event.promptTokens);
        completionSizes.observe(labels, event.completionTokens);
        preemptionsOf.observe(labels, count);
        // One that was aborted while it waited has not run.
        if (firstTokenMs === undefined) return;
        inferenceSeconds.observe(labels, (event.durationMs - event.queuedMs) / 1000);
        prefillSeconds.observe(labels, Math.max(0, firstTokenMs - event.queuedMs) / 1000);
        decodeSeconds.observe(labels, (event.durationMs - firstTokenMs) / 1000);
      })
      .on("batch:scheduled", ({ distinctExperts }) => uniqueExperts.observe(labels, distinctExperts))
      .on("batch:completed", ({ tokens, durationMs, predictedMs }) => {
        stepTokens.observe(labels, tokens);
        stepSeconds.observe(labels, durationMs / 1000);
        stepError.observe(labels, Math.abs(predictedMs - durationMs) / 1000);
      })
      // Those under way do not finish any more.
      .on("engine:failed", () => sequences.clear());
  };
}
