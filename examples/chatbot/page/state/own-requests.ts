// The page's own requests, so that the live view can mark them among those of others.

import { signal, type Signal } from "@preact/signals";
import type { LiveSequence } from "../../shared/live.ts";

/** Ids of the page's latest answers, and whether one was sent whose id is not known yet. */
interface OwnRequests {
  readonly ids: readonly string[];
  readonly isWaiting: boolean;
}

const MAX_IDS = 8;
const state: Signal<OwnRequests> = signal<OwnRequests>({ ids: [], isWaiting: false });

export const ownRequests = {
  sent: (): void => {
    state.value = { ...state.value, isWaiting: true };
  },
  started: (id: string): void => {
    const { ids } = state.value;
    if (ids[0] !== id) state.value = { ids: [id, ...ids].slice(0, MAX_IDS), isWaiting: false };
  },
  ended: (): void => {
    if (state.value.isWaiting) state.value = { ...state.value, isWaiting: false };
  },
  get now(): OwnRequests {
    return state.value;
  },
};

/** A running sequence as the live view names it. */
export interface NamedSequence {
  readonly sequence: LiveSequence;
  readonly name: string;
  readonly isOwn: boolean;
}

/**
 * Names sequences by their ids, which are requests' ids with the number of the choice. The server tells an answer's id
 * with its first token: until then, the only unknown sequence is taken for the page's own.
 */
export function nameSequences(sequences: readonly LiveSequence[], { ids, isWaiting }: OwnRequests): NamedSequence[] {
  const unknown = sequences.filter((one) => simulatedIn(one) === undefined && !ids.includes(requestOf(one)));
  return sequences.map((sequence) => {
    const isOwn = ids.includes(requestOf(sequence)) || (isWaiting && unknown.length === 1 && unknown[0] === sequence);
    const number = simulatedIn(sequence);
    return { sequence, isOwn, name: isOwn ? "You" : number ? `Simulated ${number}` : "Someone else" };
  });
}

function requestOf({ id }: LiveSequence): string {
  return id.split("/")[0] ?? "";
}

/** Returns the number of a simulated chat. */
function simulatedIn(sequence: LiveSequence): string | undefined {
  return /^simulated-(\d+)-/.exec(requestOf(sequence))?.[1];
}
