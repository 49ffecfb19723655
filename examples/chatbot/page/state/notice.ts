// A short message at the edge of the page, with at most one action. It stays until it is closed or replaced.

import { signal, type Signal } from "@preact/signals";

export interface Notice {
  readonly text: string;
  readonly action?: { readonly label: string; readonly run: () => void };
}

export const notice: Signal<Notice | undefined> = signal<Notice | undefined>(undefined);
