// The text of one completion as its tokens arrive, up to a stop string.

import { StopMatcher, type FinishReason, type StopAutomaton } from "@readme-moe/core";
import { StreamingDecoder, type TokenReader } from "./decoding.ts";

/** Text that a token made certain, and why the completion ends with the token, if it does. */
export interface CompletionPiece {
  /** Whole characters, without any part of a stop string. May be empty until more tokens decide. */
  readonly text: string;
  /** Present if the completion ends: a stop string was found, or the token ends it. */
  readonly finishReason?: FinishReason;
  /** Stop string that ended the completion. */
  readonly stop?: string;
}

/**
 * Turns the tokens of one completion into pieces of text. Bytes of an incomplete character, and text that may be the
 * beginning of a stop string, are held back until more tokens decide. The pieces depend on the tokens alone.
 */
export class CompletionText {
  readonly #decoder: StreamingDecoder;
  readonly #stops: StopMatcher;

  /** @param stops - stop strings, or an automaton of them that completions share */
  constructor(tokenizer: TokenReader, stops: readonly string[] | StopAutomaton) {
    this.#decoder = new StreamingDecoder(tokenizer, { skipSpecialTokens: true });
    this.#stops = new StopMatcher(stops);
  }

  /**
   * Takes the next token. No token may follow one that ends the completion.
   *
   * @param ending - why the completion ends with this token, unless a stop string ends it: "stop" for an end token,
   *   which is not part of the text even if it has a spelling; "length" if there is no room for more tokens
   */
  push(tokenId: number, ending?: FinishReason): CompletionPiece {
    const isEnd = ending === "stop";
    const { text, stopped } = this.#stops.push(isEnd ? this.#decoder.flush() : this.#decoder.push(tokenId));
    if (stopped) return { text, finishReason: "stop", stop: stopped.stop };
    if (ending === undefined) return { text };
    // Text that was held back as the possible beginning of a stop string is certain now, up to a stop string in it.
    const held = this.#stops.push(isEnd ? "" : this.#decoder.flush());
    const last = held.stopped ? undefined : this.#stops.flush();
    const stop = (held.stopped ?? last?.stopped)?.stop;
    const rest = text + held.text + (last?.text ?? "");
    return stop === undefined ? { text: rest, finishReason: ending } : { text: rest, finishReason: "stop", stop };
  }
}
