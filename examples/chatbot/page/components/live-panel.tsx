// The live view of the server, with its settings.

import type { JSX } from "preact";
import { connection, live, model, refusal } from "../state/live-connection.ts";
import { LiveControls } from "./live-controls.tsx";
import { LiveFigures } from "./live-figures.tsx";
import { LiveStep } from "./live-step.tsx";
import { MemoryGrid } from "./memory-grid.tsx";
import { StepBars } from "./step-bars.tsx";

export function LivePanel(): JSX.Element {
  const [snapshot, chosen] = [live.value, model.value];
  return (
    <section class="live" aria-label="Live view" tabIndex={0}>
      <header>
        <h2>Live</h2>
        <p class="small">{connection.value === "open" ? chosen?.title : "No connection"}</p>
      </header>
      {snapshot && chosen && (
        <>
          <LiveControls snapshot={snapshot} />
          {refusal.value !== "" && (
            <p class="note failed" role="alert">
              {refusal.value}
            </p>
          )}
          <LiveFigures snapshot={snapshot} />
          <LiveStep snapshot={snapshot} experts={chosen.experts} />
          <StepBars steps={snapshot.pastSteps} numExperts={chosen.experts.length} />
          {snapshot.memory && <MemoryGrid memory={snapshot.memory} experts={chosen.experts} step={snapshot.step} />}
          {!snapshot.memory && (
            <p class="small">
              {chosen.experts.length > 1
                ? "All experts are in memory."
                : "A dense model: all tokens use the same weights."}
            </p>
          )}
        </>
      )}
    </section>
  );
}
