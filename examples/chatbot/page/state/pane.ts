import { signal, type Signal } from "@preact/signals";

export type Pane = "conversations" | "chat" | "live";

/** The pane that is shown on a narrow screen. */
export const pane: Signal<Pane> = signal<Pane>("chat");
