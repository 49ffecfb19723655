// A button that opens a list of actions. The browser closes it on Escape or a click elsewhere, and returns the focus.

import type { JSX } from "preact";
import { useId, useRef } from "preact/hooks";
import { Icon } from "./icon.tsx";

interface MenuItem {
  readonly label: string;
  readonly run: () => void;
}

export interface MenuProps {
  /** Name of the button. */
  readonly label: string;
  readonly items: readonly MenuItem[];
}

const STEPS: Readonly<Record<string, number>> = { ArrowDown: 1, ArrowUp: -1 };

export function Menu({ label, items }: MenuProps): JSX.Element {
  const id = useId();
  const button = useRef<HTMLButtonElement>(null);
  const list = useRef<HTMLDivElement>(null);
  const buttons = (): readonly HTMLButtonElement[] => [...(list.current?.querySelectorAll("button") ?? [])];
  const onToggle = ({ newState }: Pick<ToggleEvent, "newState">): void => {
    if (newState === "open") buttons()[0]?.focus();
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    // Escape closes the list alone.
    if (event.key === "Escape") event.stopPropagation();
    const step = STEPS[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const all = buttons();
    const at = all.indexOf(document.activeElement as HTMLButtonElement);
    all.at((at + step) % all.length)?.focus();
  };
  /** Places the list below its button, or above it where there is no room. */
  const place = ({ newState }: Pick<ToggleEvent, "newState">): void => {
    const [anchor, popover] = [button.current?.getBoundingClientRect(), list.current];
    if (newState !== "open" || !anchor || !popover) return;
    const height = 16 + 36 * items.length;
    const top = anchor.bottom + height > innerHeight ? anchor.top - height : anchor.bottom + 4;
    popover.style.top = `${Math.max(4, top)}px`;
    popover.style.left = `${Math.max(4, Math.min(anchor.left, innerWidth - 220))}px`;
  };
  return (
    <>
      <button ref={button} type="button" class="quiet square" aria-label={label} title={label} popovertarget={id}>
        <Icon name="more" />
      </button>
      <div
        ref={list}
        id={id}
        popover="auto"
        class="menu"
        role="group"
        aria-label={label}
        onBeforeToggle={place}
        onToggle={onToggle}
        onKeyDown={onKeyDown}
      >
        {items.map((item) => (
          <button
            key={item.label}
            type="button"
            onClick={() => {
              list.current?.hidePopover();
              item.run();
            }}
          >
            {item.label}
          </button>
        ))}
      </div>
    </>
  );
}
