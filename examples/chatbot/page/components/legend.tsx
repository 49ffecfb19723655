import { signal, type Signal } from "@preact/signals";
import type { JSX } from "preact";
import { ExpertMark } from "./expert-mark.tsx";

/** The expert whose tokens are highlighted; -1 for none. */
export const highlighted: Signal<number> = signal(-1);

/** Explains the colours. An expert's button highlights its tokens. */
export function Legend({ experts }: { readonly experts: readonly string[] }): JSX.Element {
  return (
    <section class="legend" aria-label="Experts by colour">
      <p class="small">Colours: the expert of each token</p>
      <ul>
        {experts.map((name, expert) => (
          <li key={name}>
            <button
              type="button"
              aria-pressed={highlighted.value === expert}
              title={`Highlight the tokens of ${name}`}
              onClick={() => toggle(expert)}
            >
              <ExpertMark expert={expert} /> {name}
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}

function toggle(expert: number): void {
  highlighted.value = highlighted.value === expert ? -1 : expert;
}
