import { useSignalEffect, useSignal } from "@preact/signals";
import type { JSX } from "preact";
import { connection, loading } from "../state/live-connection.ts";

const BACK_MS = 5000;

/** Shows that the models are loading or the connection is lost, and for a while that it is back. */
export function ConnectionBanner(): JSX.Element {
  const wasLost = useSignal(false);
  useSignalEffect(() => {
    if (connection.value === "lost") wasLost.value = true;
    if (connection.value !== "open" || !wasLost.value) return undefined;
    const timer = setTimeout(() => (wasLost.value = false), BACK_MS);
    return () => clearTimeout(timer);
  });
  const isLost = connection.value === "lost";
  if (connection.value === "loading") {
    return (
      <div role="status" aria-live="off" class="banner" data-state="loading">
        Loading {loading.value}
      </div>
    );
  }
  return (
    <div role="alert" class="banner" data-state={isLost ? "lost" : wasLost.value ? "back" : "fine"}>
      {isLost && "The server is not reachable. Trying again …"}
      {!isLost && wasLost.value && "Connected again."}
    </div>
  );
}
