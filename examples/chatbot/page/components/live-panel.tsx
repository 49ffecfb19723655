// The live view of the server, with its settings.

import type { JSX } from "preact";
import type { LiveSnapshot } from "../../shared/live.ts";
import { connection, live, model, refusal } from "../state/live-connection.ts";
import { toggleLive } from "../state/pane.ts";
import { focusSoon } from "./focus.ts";
import { Icon } from "./icon.tsx";
import { LiveControls } from "./live-controls.tsx";
import { LiveFigures } from "./live-figures.tsx";
import { LiveStep } from "./live-step.tsx";
import { Machines } from "./machines.tsx";
import { MemoryGrid } from "./memory-grid.tsx";
import { StepBars } from "./step-bars.tsx";

export function LivePanel(): JSX.Element {
  const [snapshot, chosen] = [live.value, model.value];
  return (
    <section class="live" aria-label="Live view" tabIndex={0} onKeyDown={({ key }) => key === "Escape" && close()}>
      <header>
        <div>
          <h2>Live view</h2>
          <p class="small">
            {connection.value === "open"
              ? `What the server does with ${chosen?.title ?? "the model"}`
              : "No connection"}
          </p>
        </div>
        <button type="button" class="quiet square" aria-label="Close the live view" onClick={close}>
          <Icon name="close" />
        </button>
      </header>
      {snapshot && chosen && (
        <>
          <LiveFigures snapshot={snapshot} />
          {snapshot.fleet ? (
            <Machines fleet={snapshot.fleet} />
          ) : (
            <LiveEngine snapshot={snapshot} experts={chosen.experts} />
          )}
          <LiveControls snapshot={snapshot} hasExperts={chosen.experts.length > 1} />
          {refusal.value !== "" && (
            <p class="note failed" role="alert">
              {refusal.value}
            </p>
          )}
        </>
      )}
    </section>
  );
}

function close(): void {
  toggleLive();
  focusSoon("#open-live");
}

/** The steps and the memory of an engine. */
function LiveEngine({ snapshot, experts }: { readonly snapshot: LiveSnapshot; readonly experts: readonly string[] }) {
  const { pastSteps, memory, step } = snapshot;
  return (
    <>
      <LiveStep snapshot={snapshot} experts={experts} />
      <StepBars steps={pastSteps} numExperts={experts.length} />
      {memory && <MemoryGrid memory={memory} experts={experts} step={step} />}
      {!memory && (
        <p class="small">
          {experts.length > 1 ? "All experts are in memory." : "A dense model: all tokens use the same weights."}
        </p>
      )}
    </>
  );
}
