import type { JSX } from "preact";
import type { LiveSnapshot } from "../../shared/live.ts";
import { mean, bytesInWords, percent } from "./numbers.ts";

export function LiveFigures({ snapshot }: { readonly snapshot: LiveSnapshot }): JSX.Element {
  const { tokensPerSecond, pastSteps, memory, fleet } = snapshot;
  const numWaiting = fleet?.queues.reduce((sum, { waiting }) => sum + waiting, 0) ?? snapshot.numWaiting;
  const stepMs = mean(pastSteps.slice(-16).map(({ durationMs }) => durationMs));
  const figures: readonly (readonly [name: string, value: string])[] = [
    ["tokens per second", tokensPerSecond.toFixed(0)],
    ...(fleet ? [] : ([["for a step", stepMs === 0 ? "–" : `${stepMs.toFixed(1)} ms`]] as const)),
    ["waiting", String(numWaiting)],
    ...(memory
      ? ([
          ["found in memory", percent(memory.hits, memory.uses)],
          ["experts evicted", memory.evictions.toLocaleString("en")],
          ["read from disk", bytesInWords(memory.bytesRead)],
        ] as const)
      : []),
  ];
  return (
    <dl class="figures">
      {figures.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}
