// The header `traceparent`, which names the trace and the span that a request belongs to.
// https://www.w3.org/TR/trace-context/#traceparent-header

const VERSION_0 = /^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/;
/** Later versions begin like the first, and may be longer. */
const LATER = /^(?!ff|00)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[\x21-\x7e]{0,200})?$/;

/** Tells whether a text conforms to the standard. */
export function isTraceparent(text: string): boolean {
  return VERSION_0.test(text) || LATER.test(text);
}
