// The number of distinct experts in the last steps, which expert-aware batching reduces.

import type { JSX } from "preact";
import type { LivePastStep } from "../../shared/live.ts";
import { mean } from "./numbers.ts";

const [BAR, HEIGHT, COUNT] = [5, 40, 48];

export function StepBars({
  steps,
  numExperts,
}: {
  readonly steps: readonly LivePastStep[];
  readonly numExperts: number;
}) {
  if (numExperts < 2 || steps.length === 0) return null;
  const average = mean(steps.map(({ distinctExperts }) => distinctExperts));
  const perStep = mean(steps.map(({ tokens }) => tokens));
  const words = `${average.toFixed(1)} for ${perStep.toFixed(1)} tokens`;
  const first = COUNT - steps.length;
  return (
    <section class="bars" aria-label="Experts per step">
      <h3>
        Experts used per step <span class="small">{words}</span>
      </h3>
      <svg
        viewBox={`0 0 ${COUNT * BAR} ${HEIGHT}`}
        preserveAspectRatio="none"
        role="img"
        aria-label={`Distinct experts of the last steps; on average ${words}`}
      >
        {steps.map(({ distinctExperts }, index): JSX.Element => {
          const height = (HEIGHT * distinctExperts) / numExperts;
          return <rect key={index} x={(first + index) * BAR} y={HEIGHT - height} width={BAR - 1} height={height} />;
        })}
      </svg>
    </section>
  );
}
