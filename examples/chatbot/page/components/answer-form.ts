import { computed, type ReadonlySignal } from "@preact/signals";
import { model } from "../state/live-connection.ts";
import { mode, view } from "../state/settings.ts";

/** Whether the chosen model's answers may be Markdown; a model that continues texts writes them as they come. */
export const writesMarkdown: ReadonlySignal<boolean> = computed(
  () => mode.value === "chat" && (model.value?.hasChatTemplate ?? true),
);

/** Whether answers are shown as tokens in the colours of their experts: by default if they are no Markdown. */
export function isByExpert(experts: readonly string[], isFormatted: boolean): boolean {
  return experts.length > 1 && (view.value === "experts" || (view.value === "auto" && !isFormatted));
}
