import { signal, type Signal } from "@preact/signals";

export type Pane = "conversations" | "chat" | "live";

/** The pane that a narrow screen shows. */
export const pane: Signal<Pane> = signal<Pane>("chat");
