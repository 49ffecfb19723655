// Simulated chats for the button “Load”, so that a scheduler has sequences to choose from.

import { setMaxListeners } from "node:events";
import type { Engine } from "@readme-moe/core";
import { MAX_SIMULATED_CHATS } from "../shared/live.ts";

/** Prompts of several kinds, so that chats are routed to different experts. */
const PROMPTS = [
  "import os\nimport sys\n\ndef main(argv):\n    ",
  "In this paper, we study the spectrum of the operator",
  "The ship was three days out of port when the captain",
  "How do I convert a string to a number in",
  "The town lies on the river, and its population",
  "Our hotel offers free parking, and every room",
  "The recipe is simple: first, mix the flour with",
  "public static void main(String[] args) {\n    ",
];
/** Limit for a load in a forgotten tab. */
const MAX_LOAD_MS = 180_000;
const ANSWER_TOKENS = 64;

export class SimulatedChats {
  readonly #engine: Engine;
  readonly #onChange: () => void;
  #stop = new AbortController();
  #numChats = 0;

  constructor(engine: Engine, onChange: () => void) {
    this.#engine = engine;
    this.#onChange = onChange;
  }

  /** Number of running chats. */
  get count(): number {
    return this.#numChats;
  }

  /** Ends the running chats and starts others. @param count - from 0 to `MAX_SIMULATED_CHATS` */
  set(count: number): void {
    this.#stop.abort();
    this.#stop = new AbortController();
    this.#numChats = 0;
    const signal = AbortSignal.any([this.#stop.signal, AbortSignal.timeout(MAX_LOAD_MS)]);
    // Each chat adds listeners.
    setMaxListeners(2 * MAX_SIMULATED_CHATS, signal);
    for (let chat = 0; chat < Math.min(count, MAX_SIMULATED_CHATS); chat++) void this.#run(chat, signal);
    this.#onChange();
  }

  /** Generates one answer after the other, until the signal aborts or the engine fails. */
  async #run(chat: number, signal: AbortSignal): Promise<void> {
    const own = this.#stop;
    this.#numChats++;
    try {
      for (let turn = 0; !signal.aborted; turn++) {
        const prompt = PROMPTS[(chat + turn) % PROMPTS.length] as string;
        // The text is not used; only the work counts.
        const params = { maxTokens: ANSWER_TOKENS, temperature: 0.9, ignoreEos: true };
        for await (const _ of this.#engine.generate({ prompt, params, id: `simulated-${chat + 1}-${turn}`, signal }));
      }
    } catch {
      // The chat was ended, or the engine has emitted an event with the reason.
    } finally {
      if (own === this.#stop) {
        this.#numChats--;
        this.#onChange();
      }
    }
  }
}
