// Binds answers to the formats of requests. Grammars are opened when a request first needs them.

import { checkAnswerFormat, type AnswerFormat, type EngineVocabulary, type ProcessLogits } from "@readme-moe/core";
import { Grammars, type Asker } from "@readme-moe/grammar";

/** The grammars of one engine. */
export class AnswerFormats {
  readonly #readVocabulary: () => Promise<EngineVocabulary>;
  #grammars: Promise<Grammars> | undefined;
  #isDisposed = false;

  /** @param readVocabulary - reads the vocabulary of the engine */
  constructor(readVocabulary: () => Promise<EngineVocabulary>) {
    this.#readVocabulary = readVocabulary;
  }

  /**
   * Makes the `processLogits` of a request. Its grammar is compiled while the prompt runs, so an error of the grammar
   * is thrown by the first call.
   *
   * @throws {TypeError} on a wrong shape, and on `processLogits` beside the format
   */
  processorOf(format: AnswerFormat, beside: ProcessLogits | undefined, asker: Asker): ProcessLogits {
    checkAnswerFormat(format);
    if (beside !== undefined) throw new TypeError("Expected `format` or `processLogits`, got both");
    let bound: Promise<ProcessLogits> | undefined;
    const processor = (): Promise<ProcessLogits> => (bound ??= this.#bind(format, asker));
    const process: ProcessLogits = async (logits, context) => (await processor())(logits, context);
    return Object.assign(process, {
      allowTokens: async (context) => {
        const { allowTokens } = await processor();
        if (allowTokens === undefined) throw new TypeError("Expected a constraint that names allowed tokens");
        return allowTokens(context);
      },
    } satisfies Pick<ProcessLogits, "allowTokens">);
  }

  /** Ends the grammars. */
  async dispose(): Promise<void> {
    this.#isDisposed = true;
    await (await this.#grammars?.catch(() => undefined))?.dispose();
  }

  async #bind(format: AnswerFormat, asker: Asker): Promise<ProcessLogits> {
    const grammars = await (this.#grammars ??= this.#open());
    const constraint = await grammars.format(format, asker);
    return constraint.processor({ signal: asker.signal });
  }

  async #open(): Promise<Grammars> {
    try {
      const grammars = await Grammars.open(await this.#readVocabulary());
      if (this.#isDisposed) await grammars.dispose();
      return grammars;
    } catch (error) {
      // The next request tries again.
      this.#grammars = undefined;
      throw error;
    }
  }
}
