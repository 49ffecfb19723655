// Makes tracing spans from an engine's events: one for each sequence, by the semantic conventions for generative AI,
// and one for each step. The engine emits its events after each step, with times that it has measured itself, so each
// span is made when it has ended. https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/

import { ROOT_CONTEXT, SpanKind, SpanStatusCode, type Attributes, type Tracer } from "@opentelemetry/api";
import type { ReadMeEmitter } from "@readme-moe/core";

/** A sequence that has not finished. Times are in ms since 1970. */
interface UnfinishedSequence {
  readonly queuedMs: number;
  readonly attributes: Attributes;
  readonly numWaiting: number;
  sinceFirstTokenMs?: number;
  readonly preemptions: { readonly atMs: number; readonly tokens: number }[];
}

/** Listens to an engine's events. @param model - name of the model in requests */
export function traceSequences(events: ReadMeEmitter, tracer: Tracer, model: string): void {
  const unfinished = new Map<string, UnfinishedSequence>();
  const running = new Map<number, Attributes>();
  const sequenceSpan = (startTime: number, attributes: Attributes) =>
    tracer.startSpan(`text_completion ${model}`, { kind: SpanKind.INTERNAL, startTime, attributes }, ROOT_CONTEXT);

  events
    .on("sequence:queued", ({ sequenceId, promptTokens, numWaiting }) => {
      const attributes = {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "readme-moe",
        "gen_ai.request.model": model,
        "gen_ai.response.id": sequenceId,
        "gen_ai.usage.input_tokens": promptTokens,
      };
      unfinished.set(sequenceId, { queuedMs: Date.now(), attributes, numWaiting, preemptions: [] });
    })
    .on("token:generated", ({ sequenceId, isFirst, sinceMs }) => {
      const sequence = unfinished.get(sequenceId);
      if (sequence && isFirst) sequence.sinceFirstTokenMs = sinceMs;
    })
    .on("sequence:preempted", ({ sequenceId, tokens }) => {
      unfinished.get(sequenceId)?.preemptions.push({ atMs: Date.now(), tokens });
    })
    .on("sequence:finished", ({ sequenceId, reason, completionTokens, cachedTokens, queuedMs, durationMs }) => {
      const sequence = unfinished.get(sequenceId);
      if (!sequence) return;
      unfinished.delete(sequenceId);
      const endMs = Date.now();
      const startMs = endMs - durationMs;
      const span = sequenceSpan(startMs, {
        ...sequence.attributes,
        "gen_ai.response.model": model,
        "gen_ai.response.finish_reasons": [reason],
        "gen_ai.usage.output_tokens": completionTokens,
        "gen_ai.usage.cache_read.input_tokens": cachedTokens,
      });
      span.addEvent("queued", { "readme.num_waiting": sequence.numWaiting }, startMs);
      const { sinceFirstTokenMs } = sequence;
      // A sequence that was aborted in the queue has not run.
      if (sinceFirstTokenMs !== undefined) {
        span.addEvent("prefill", startMs + queuedMs);
        span.addEvent("first token", startMs + sinceFirstTokenMs);
      }
      for (const { atMs, tokens } of sequence.preemptions) {
        span.addEvent("preempted", { "readme.num_tokens": tokens }, atMs);
      }
      if (reason === "error") span.setAttribute("error.type", "error").setStatus({ code: SpanStatusCode.ERROR });
      span.addEvent("finished", endMs).end(endMs);
    })
    .on("batch:scheduled", ({ step, sequenceIds, distinctExperts, numWaiting }) => {
      running.set(step, {
        "readme.step": step,
        "readme.sequences": [...sequenceIds],
        "readme.distinct_experts": distinctExperts,
        "readme.num_waiting": numWaiting,
      });
    })
    .on("batch:completed", ({ step, tokens, prefillTokens, durationMs, predictedMs }) => {
      const attributes = {
        ...running.get(step),
        "readme.num_tokens": tokens,
        "readme.num_prefill_tokens": prefillTokens,
        "readme.predicted_ms": predictedMs,
      };
      running.delete(step);
      const endMs = Date.now();
      tracer.startSpan("step", { startTime: endMs - durationMs, attributes }, ROOT_CONTEXT).end(endMs);
    })
    // Unfinished sequences do not finish any more.
    .on("engine:failed", ({ code, message }) => {
      for (const { queuedMs, attributes } of unfinished.values()) {
        const span = sequenceSpan(queuedMs, { ...attributes, "error.type": code });
        span.setStatus({ code: SpanStatusCode.ERROR, message }).end();
      }
      unfinished.clear();
      running.clear();
    });
}
