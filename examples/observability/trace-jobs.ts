// Makes tracing spans of a fleet's worker, in the traces that the fronts have begun: one for each request that it
// answers, and within it the wait in the queue, the prefill and the decoding.

import {
  ROOT_CONTEXT,
  SpanKind,
  SpanStatusCode,
  trace,
  TraceFlags,
  type Context,
  type Tracer,
} from "@opentelemetry/api";
import type { ReadMeEmitter } from "@readme-moe/core";

/** Listens to the events of a worker. @param model - name of the model in requests */
export function traceJobs(events: ReadMeEmitter, tracer: Tracer, model: string): void {
  events.on("job:ended", (job) => {
    const { queuedMs = 0, prefillMs, durationMs } = job;
    // The event comes at the end, with durations: the clocks of machines differ.
    const endMs = Date.now();
    const [takenMs, queuedAtMs] = [endMs - durationMs, endMs - durationMs - queuedMs];
    const attributes = {
      "gen_ai.operation.name": "text_completion",
      "gen_ai.provider.name": "readme-moe",
      "gen_ai.request.model": model,
      "gen_ai.response.id": job.requestId,
      "gen_ai.usage.input_tokens": job.promptTokens,
      "gen_ai.usage.output_tokens": job.completionTokens,
      "readme.worker": job.workerId,
      "readme.end": job.end,
      "readme.is_resumed": job.isResumed,
    };
    const parent = contextOf(job.traceparent);
    const options = { kind: SpanKind.CONSUMER, startTime: queuedAtMs, attributes };
    const span = tracer.startSpan(`text_completion ${model}`, options, parent);
    const within = trace.setSpan(parent, span);
    const part = (name: string, startTime: number, partEndMs: number): void =>
      tracer.startSpan(name, { startTime }, within).end(partEndMs);
    if (job.queuedMs !== undefined) part("queue", queuedAtMs, takenMs);
    if (prefillMs !== undefined) {
      part("prefill", takenMs, takenMs + prefillMs);
      part("decode", takenMs + prefillMs, endMs);
    }
    if (job.end === "different") span.setStatus({ code: SpanStatusCode.ERROR, message: "other tokens than before" });
    span.end(endMs);
  });
}

/** Returns the context of the span that a valid `traceparent` names. */
function contextOf(traceparent: string | undefined): Context {
  const [, traceId, spanId, flags] = traceparent?.split("-") ?? [];
  if (traceId === undefined || spanId === undefined || flags === undefined) return ROOT_CONTEXT;
  const isSampled = (Number.parseInt(flags, 16) & TraceFlags.SAMPLED) !== 0;
  const traceFlags = isSampled ? TraceFlags.SAMPLED : TraceFlags.NONE;
  return trace.setSpanContext(ROOT_CONTEXT, { traceId, spanId, traceFlags, isRemote: true });
}
