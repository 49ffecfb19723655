// Prints spans as lines of JSON. A service uses `new BatchSpanProcessor(new OTLPTraceExporter())` instead, from
// `@opentelemetry/exporter-trace-otlp-http`.

import type { ReadableSpan, SpanProcessor } from "@opentelemetry/sdk-trace-base";

export const printSpans: SpanProcessor = {
  onStart: () => undefined,
  onEnd: (span) => console.log(JSON.stringify(plain(span))),
  forceFlush: () => Promise.resolve(),
  shutdown: () => Promise.resolve(),
};

function plain({ name, startTime, duration, attributes, events }: ReadableSpan): object {
  const startMs = milliseconds(startTime);
  return {
    span: name,
    ms: rounded(milliseconds(duration)),
    ...(events.length > 0 && {
      events: events.map((event) => `${event.name} +${rounded(milliseconds(event.time) - startMs)}`),
    }),
    ...attributes,
  };
}

function milliseconds([seconds, nanoseconds]: ReadableSpan["startTime"]): number {
  return seconds * 1e3 + nanoseconds / 1e6;
}

function rounded(value: number): number {
  return Number(value.toFixed(1));
}
