// Pictograms of buttons, drawn with lines in the colour of the text. Each button has its name in words, too.

import type { JSX } from "preact";

/** Paths in a square of 24. */
const PATHS = {
  attach: "M20 11.5 11.8 19.7a5 5 0 0 1-7-7L13 4.4a3.3 3.3 0 0 1 4.7 4.7l-8.2 8.2a1.7 1.7 0 0 1-2.4-2.4l7.5-7.5",
  check: "m5 12.5 4.5 4.5L19 7.5",
  chevron: "m9 6 6 6-6 6",
  close: "M6 6l12 12M18 6 6 18",
  continue: "M5 5v14M10 6l9 6-9 6z",
  copy: "M9 9h10v11H9zM15 9V4H5v11h4",
  edit: "M4 20l1-4L16 5l3 3L8 19zM13.5 7.5l3 3",
  file: "M6 3h8l4 4v14H6zM14 3v4h4",
  live: "M3 12h4l3-7 4 14 3-7h4",
  menu: "M4 6h16M4 12h16M4 18h10",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  new: "M12 5v14M5 12h14",
  retry: "M20 12a8 8 0 1 1-2.5-5.8M20 4v4h-4",
  search: "M16 16l4 4M4 10.5a6.5 6.5 0 1 0 13 0 6.5 6.5 0 1 0-13 0",
  send: "M12 19V5M6 11l6-6 6 6",
  settings: "M4 7h8M18 7h2M12 7a3 3 0 1 0 6 0 3 3 0 1 0-6 0M4 17h2M12 17h8M6 17a3 3 0 1 0 6 0 3 3 0 1 0-6 0",
  stop: "M7 7h10v10H7z",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { readonly name: IconName }): JSX.Element {
  return (
    <svg class={`icon icon-${name}`} viewBox="0 0 24 24" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}
