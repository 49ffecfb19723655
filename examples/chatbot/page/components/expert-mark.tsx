// The mark of an expert: a colour and a number.

import type { JSX } from "preact";

/** Number of colours that people with colour blindness can distinguish; further experts have striped marks. */
const NUM_COLOURS = 8;

/** Returns the CSS class for an expert's colour. */
export function expertClass(expert: number): string {
  if (expert < 0) return "expert-none";
  return `expert expert-${expert % NUM_COLOURS}${expert >= NUM_COLOURS ? " expert-striped" : ""}`;
}

/** @param name - shown as a tooltip and read by screen readers */
export function ExpertMark({ expert, name }: { readonly expert: number; readonly name?: string }): JSX.Element {
  return (
    <span class={`mark ${expertClass(expert)}`} title={name}>
      {expert + 1}
    </span>
  );
}
