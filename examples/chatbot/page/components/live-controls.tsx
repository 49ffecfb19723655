import { useSignal } from "@preact/signals";
import type { JSX } from "preact";
import { MAX_SIMULATED_CHATS, type LiveMemory, type LiveSnapshot, type SchedulerName } from "../../shared/live.ts";
import { change } from "../state/live-connection.ts";
import { Choices } from "./choices.tsx";
import { bytesInWords } from "./numbers.ts";

const SCHEDULERS: readonly (readonly [SchedulerName, string])[] = [
  ["cost-aware", "By cost"],
  ["read-me", "By expert"],
  ["fcfs", "By arrival"],
];
const MEANING: Readonly<Record<SchedulerName, string>> = {
  "cost-aware": "What makes the best use of the next step's time runs first.",
  "read-me": "The expert that most tokens wait for runs first.",
  fcfs: "Requests run in the order of their arrival.",
};
const LOADS = [4, 8, MAX_SIMULATED_CHATS];

export interface LiveControlsProps {
  readonly snapshot: LiveSnapshot;
  readonly hasExperts: boolean;
}

export function LiveControls({ snapshot, hasExperts }: LiveControlsProps): JSX.Element {
  const { scheduler, simulatedChats, memory } = snapshot;
  const wanted = useSignal(8);
  return (
    <section class="controls" aria-label="Settings of the server">
      <h3>Try it</h3>
      <div class="load">
        <label>
          <span class="hidden">Number of simulated chats</span>
          <select
            value={String(wanted.value)}
            disabled={simulatedChats > 0}
            onChange={({ currentTarget }) => (wanted.value = Number(currentTarget.value))}
          >
            {LOADS.map((count) => (
              <option key={count} value={String(count)}>
                {count} chats
              </option>
            ))}
          </select>
        </label>
        <button
          type="button"
          title="Simulated chats compete for the server, so that there is a choice of what runs first"
          onClick={() => void change("load", { chats: simulatedChats > 0 ? 0 : wanted.value })}
        >
          {simulatedChats > 0 ? `Stop ${simulatedChats} chats` : "Simulate"}
        </button>
      </div>
      {/* Without experts, all orders are nearly the same. */}
      {hasExperts && scheduler && <SchedulerChoice scheduler={scheduler} />}
      {memory && <MemorySlider memory={memory} />}
    </section>
  );
}

/** Shows the choice at once; snapshots from before the server's answer do not undo it. */
function SchedulerChoice({ scheduler }: { readonly scheduler: SchedulerName }): JSX.Element {
  const chosen = useSignal<SchedulerName | undefined>(undefined);
  const choose = async (name: SchedulerName): Promise<void> => {
    chosen.value = name;
    await change("scheduling", { scheduler: name });
    // A later choice is kept until its own answer.
    if (chosen.value === name) chosen.value = undefined;
  };
  return (
    <>
      <Choices
        label="Which requests run first"
        name="scheduler"
        options={SCHEDULERS}
        value={chosen.value ?? scheduler}
        onChoose={(name) => void choose(name)}
      />
      <p class="small">{MEANING[scheduler]}</p>
    </>
  );
}

/** Changes the memory when the slider is released, not while it is dragged. */
function MemorySlider({ memory }: { readonly memory: LiveMemory }): JSX.Element {
  const { budgetBytes, leastBytes, allBytes } = memory;
  const dragged = useSignal<number | undefined>(undefined);
  const shown = dragged.value ?? budgetBytes;
  const words = `${bytesInWords(shown)} of ${bytesInWords(allBytes)}`;
  return (
    <label class="slider">
      <span>
        Memory for experts <span>{words}</span>
      </span>
      <input
        type="range"
        min={leastBytes}
        max={Math.max(allBytes, budgetBytes)}
        step={Math.max(1, Math.round((allBytes - leastBytes) / 40))}
        value={shown}
        aria-valuetext={words}
        onInput={({ currentTarget }) => (dragged.value = currentTarget.valueAsNumber)}
        onChange={({ currentTarget }) => {
          const bytes = currentTarget.valueAsNumber;
          void change("memory", { bytes }).then(() => (dragged.value = undefined));
        }}
      />
    </label>
  );
}
