/** Moves the cursor into the message box, once the changes of this turn are shown. */
export function focusComposer(): void {
  queueMicrotask(() => document.getElementById("composer")?.focus());
}

/** Moves the focus to an element that is about to appear or to be uncovered. */
export function focusSoon(selector: string): void {
  requestAnimationFrame(() => document.querySelector<HTMLElement>(selector)?.focus());
}
