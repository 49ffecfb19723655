import type { JSX } from "preact";
import { theme, type Theme } from "../state/settings.ts";

const NEXT: Readonly<Record<Theme, Theme>> = { auto: "light", light: "dark", dark: "auto" };
const SIGN: Readonly<Record<Theme, string>> = { auto: "◐", light: "○", dark: "●" };

export function ThemeButton(): JSX.Element {
  const now = theme.value;
  return (
    <button
      type="button"
      class="quiet"
      aria-label={`Theme: ${now}. Change to ${NEXT[now]}`}
      title={`Theme: ${now}`}
      onClick={() => (theme.value = NEXT[now])}
    >
      <span aria-hidden="true">{SIGN[now]}</span>
    </button>
  );
}
