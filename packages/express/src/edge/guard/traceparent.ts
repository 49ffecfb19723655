// https://www.w3.org/TR/trace-context/#traceparent-header

const VERSION_0 = /^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/;
/** Later versions begin like the first, and may go on. */
const LATER = /^(?!ff|00)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[\x21-\x7e]{0,200})?$/;

/** The header, if it is what the standard says; else a trace begins anew. */
export function validTraceparent(header: string | undefined): string | undefined {
  return header !== undefined && (VERSION_0.test(header) || LATER.test(header)) ? header : undefined;
}
