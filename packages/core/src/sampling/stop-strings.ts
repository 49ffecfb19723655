import { StopAutomaton } from "./stop-automaton.ts";

/** What became of pushed text. */
export interface StopResult {
  /** Text that is certain not to be in a stop string, and was not given before. */
  readonly text: string;
  /** The stop string that was met; all text before it was given. */
  readonly stopped?: { readonly stop: string };
}

/**
 * Cuts a completion before the first of its stop strings, while its text comes in pieces of any size.
 *
 * First is the one that begins first; among those that begin together the shortest, as it is complete first. Text
 * is held back while it may be the beginning of a stop string, which is at most as long as the longest, and never
 * between the two halves of a surrogate pair. Time is linear in the text for any stop strings.
 */
export class StopMatcher {
  readonly #automaton: StopAutomaton;
  #state = 0;
  #held = "";
  /** The best stop so far, while another that begins before it may still come; `begin` is in `#held`. */
  #found: { readonly begin: number; readonly stop: string } | undefined;
  #stopped: { readonly stop: string } | undefined;

  /** @param stops - non-empty strings, or what `new StopAutomaton` made of them, to share it */
  constructor(stops: readonly string[] | StopAutomaton) {
    this.#automaton = stops instanceof StopAutomaton ? stops : new StopAutomaton(stops);
  }

  /** Takes the next piece of text. Once stopped, gives no more. */
  push(text: string): StopResult {
    if (this.#stopped) return { text: "", stopped: this.#stopped };
    const from = this.#held.length;
    this.#held += text;
    for (let end = from + 1; end <= this.#held.length; end++) {
      this.#state = this.#automaton.next(this.#state, this.#held.charCodeAt(end - 1));
      this.#note(end);
      // Nothing that could still become a stop string begins before the one that was found.
      if (this.#found && end - this.#automaton.depth(this.#state) >= this.#found.begin) return this.#stop(this.#found);
    }
    return { text: this.#release(this.#held.length - this.#automaton.depth(this.#state)) };
  }

  /** Ends the text: what is held back is certain now. */
  flush(): StopResult {
    if (this.#stopped) return { text: "", stopped: this.#stopped };
    if (this.#found) return this.#stop(this.#found);
    const text = this.#held;
    this.#held = "";
    this.#state = 0;
    return { text };
  }

  #note(end: number): void {
    const stop = this.#automaton.stop(this.#state);
    if (stop === undefined) return;
    const begin = end - stop.length;
    if (this.#found === undefined || begin < this.#found.begin) this.#found = { begin, stop };
  }

  #stop({ begin, stop }: { readonly begin: number; readonly stop: string }): StopResult {
    this.#stopped = { stop };
    return { text: this.#held.slice(0, begin), stopped: this.#stopped };
  }

  #release(end: number): string {
    const lead = this.#held.charCodeAt(end - 1);
    const isHalf = lead >= 0xd800 && lead <= 0xdbff;
    const safe = isHalf ? end - 1 : end;
    const text = this.#held.slice(0, safe);
    this.#held = this.#held.slice(safe);
    if (this.#found) this.#found = { ...this.#found, begin: this.#found.begin - safe };
    return text;
  }
}
