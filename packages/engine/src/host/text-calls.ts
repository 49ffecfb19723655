// Calls that need only the model's texts: their checks, and the vocabulary, which is read once.

import { checkExpert, integerOption, type Engine, type EngineInfo, type EngineVocabulary } from "@readme-moe/core";
import type { CallingEngine } from "./calling-engine.ts";
import { wireChat, wirePrompt, wireTokenize } from "./request.ts";

/** Facts about a model that texts are checked against. */
type TextInfo = Pick<EngineInfo, "vocabSize" | "experts" | "hasRouter">;

/** Calls of an engine, or of a reader of prompts, about texts. */
export class TextCalls implements Pick<Engine, "tokenize" | "detokenize" | "applyTemplate" | "vocabulary" | "route"> {
  readonly #engine: CallingEngine<TextInfo>;
  #vocabulary: Promise<EngineVocabulary> | undefined;

  constructor(engine: CallingEngine<TextInfo>) {
    this.#engine = engine;
  }

  tokenize: Engine["tokenize"] = async (prompt, options = {}) =>
    this.#engine.call("tokenize", wireTokenize(prompt, options), options.signal);

  detokenize: Engine["detokenize"] = async (tokenIds) => {
    const { vocabSize } = this.#engine.getInfo();
    const ids = Int32Array.from(tokenIds, (id) => integerOption("tokenIds", id, 0, vocabSize - 1));
    return this.#engine.call("detokenize", { tokenIds: ids });
  };

  applyTemplate: Engine["applyTemplate"] = async (messages, template = {}) =>
    this.#engine.call("applyTemplate", wireChat(messages, template));

  vocabulary: Engine["vocabulary"] = () =>
    (this.#vocabulary ??= this.#engine.call("vocabulary", {}).catch((error: unknown) => {
      // The next call tries again.
      this.#vocabulary = undefined;
      throw error;
    }));

  route: Engine["route"] = async (prompt, expert) => {
    const info = this.#engine.getInfo();
    checkExpert(expert, info);
    return this.#engine.call("route", { prompt: wirePrompt(prompt, info), expert });
  };
}
