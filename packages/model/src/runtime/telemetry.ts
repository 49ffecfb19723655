/**
 * The runtime's builds for Node keep a database of events in the user's home, to be sent to their maker, unless this
 * variable is set before the first session. Threads have environments of their own that the runtime does not see, so
 * the main thread has to do it for them.
 */
export function disableTelemetry(): void {
  process.env["ORT_DISABLE_TELEMETRY"] ??= "1";
}
