// The mark of an expert: a colour, and always a number beside it.

import type { JSX } from "preact";

/** Colours that people tell apart however they see; beyond these, marks are striped. */
const NUM_COLOURS = 8;

/** The class of what is an expert's. */
export function expertClass(expert: number): string {
  if (expert < 0) return "expert-none";
  return `expert expert-${expert % NUM_COLOURS}${expert >= NUM_COLOURS ? " expert-striped" : ""}`;
}

/** @param name - read out, and shown where a pointer rests */
export function ExpertMark({ expert, name }: { readonly expert: number; readonly name?: string }): JSX.Element {
  return (
    <span class={`mark ${expertClass(expert)}`} title={name}>
      {expert + 1}
    </span>
  );
}
