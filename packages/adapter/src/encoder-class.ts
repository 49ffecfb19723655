// A model of the host's own class whose forward pass runs in the engine: an encoder.

import type { Engine, ReadMeEmitter } from "@readme-moe/core";
import { describeValue, ReadMeError } from "@readme-moe/core";
import { insideOf, type HostLike, type HostTensor } from "./host.ts";
import type { EngineLease } from "./load/engine-pool.ts";

/** Inputs that a tokenizer of the host makes, `[texts, tokens]` each, padded. */
interface EncoderInputs {
  readonly input_ids: HostTensor;
  readonly attention_mask?: HostTensor | undefined;
  readonly token_type_ids?: HostTensor | undefined;
}

/**
 * Makes an instance of the host's `PreTrainedModel` whose calls give `last_hidden_state`.
 * @param parts - the engine, and config.json
 */
export function hostEncoder(host: HostLike, { lease, config }: { lease: EngineLease; config: object }): object {
  const { engine } = lease;
  const { PreTrainedModel, PretrainedConfig, Tensor } = insideOf(host);

  class ReadMeEncoder extends PreTrainedModel {
    readonly engine: Engine = engine;
    readonly events: ReadMeEmitter = engine.events;

    /** Computes the states of all tokens, `[texts, tokens, dimensions]`; 0 at padding. */
    async forward(inputs: EncoderInputs): Promise<object> {
      const { dims } = inputs.input_ids;
      const [numTexts = 0, numTokens = 0] = dims;
      const { dimensions = 0 } = engine.info.embedding ?? {};
      const places = placesOf(inputs, numTexts, numTokens);
      const ids = inputs.input_ids.data;
      const texts = places.map((own) => Int32Array.from(own, (place) => Number(ids[place])));
      const { embeddings } = await engine.embed({ inputs: texts, pooling: "none" });
      const states = new Float32Array(numTexts * numTokens * dimensions);
      for (const [text, own] of places.entries()) {
        for (const [row, place] of own.entries()) {
          const state = embeddings[text]?.subarray(row * dimensions, (row + 1) * dimensions) ?? [];
          states.set(state, place * dimensions);
        }
      }
      return { last_hidden_state: new Tensor("float32", states, [numTexts, numTokens, dimensions]) };
    }

    async dispose(): Promise<readonly unknown[]> {
      await lease.release();
      return [];
    }
  }

  return new ReadMeEncoder(new PretrainedConfig(config), {});
}

/** Lists the places of each text's tokens that are no padding. @throws {TypeError | ReadMeError} on other inputs */
function placesOf(
  { input_ids: ids, attention_mask: mask, token_type_ids: segments }: EncoderInputs,
  numTexts: number,
  numTokens: number,
): readonly (readonly number[])[] {
  if (ids.dims.length !== 2) throw new TypeError(`Expected \`input_ids\` of texts, got ${describeValue(ids.dims)}`);
  if (segments?.data.some((segment) => segment !== 0n)) {
    throw new ReadMeError(
      "ERR_MODEL_UNSUPPORTED",
      "Pairs of texts are not run through the adapter; use `engine.rerank`",
    );
  }
  return Array.from({ length: numTexts }, (_, text) => {
    const all = Array.from({ length: numTokens }, (__, token) => text * numTokens + token);
    const own = mask ? all.filter((place) => mask.data[place] !== 0n) : all;
    // A text of padding alone has a state that nobody reads.
    return own.length > 0 ? own : all.slice(0, 1);
  });
}
