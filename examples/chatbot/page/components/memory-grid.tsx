// Shows which layers are in memory: a row for each expert, a cell for each layer.

import type { JSX } from "preact";
import type { LiveMemory, LiveSnapshot } from "../../shared/live.ts";
import { ExpertMark, expertClass } from "./expert-mark.tsx";
import { bytesInWords } from "./numbers.ts";

export interface MemoryGridProps {
  readonly memory: LiveMemory;
  readonly experts: readonly string[];
  readonly step: LiveSnapshot["step"];
}

export function MemoryGrid({ memory, experts, step }: MemoryGridProps): JSX.Element {
  const running = new Set(step?.sequences.flatMap((sequence) => sequence.experts.map(([expert]) => expert)));
  return (
    <section class="memory" aria-label="Experts in memory">
      <h3>
        Experts in memory, by layer <span class="small">{bytesInWords(memory.usedBytes)}</span>
      </h3>
      <ul>
        {experts.map((name, expert) => {
          const layers = (memory.resident[expert] ?? "").split("");
          const count = layers.filter((layer) => layer === "1").length;
          return (
            <li key={name} class={running.has(expert) ? "running" : ""}>
              <ExpertMark expert={expert} />
              <span class="name" title={name}>
                {name}
              </span>
              <span
                class={`cells ${expertClass(expert)}`}
                role="img"
                aria-label={`${count} of ${layers.length} layers`}
              >
                {layers.map((layer, index) => (
                  <i key={index} data-resident={layer} />
                ))}
              </span>
              <span class="small">{running.has(expert) ? "runs" : ""}</span>
            </li>
          );
        })}
      </ul>
    </section>
  );
}
