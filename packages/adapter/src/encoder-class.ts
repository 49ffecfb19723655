// A model of the host's own class whose forward pass runs in the engine: an encoder, with or without a head.

import type { ReadMeEmitter, SegmentedIds } from "@readme-moe/core";
import { describeValue, ReadMeError } from "@readme-moe/core";
import type { ReadMeEngine } from "@readme-moe/engine";
import type { Model } from "@readme-moe/model";
import { insideOf, type HostLike, type HostTensor } from "./host.ts";
import type { EngineLease } from "./load/engine-pool.ts";

/** Inputs that a tokenizer of the host makes, `[texts, tokens]` each, padded. */
interface EncoderInputs {
  readonly input_ids: HostTensor;
  readonly attention_mask?: HostTensor | undefined;
  readonly token_type_ids?: HostTensor | undefined;
}

/**
 * Results of a model: states of tokens, or logits of a text's labels, of tokens' labels, or of the vocabulary for each
 * token. `"masks"` leaves out the logits of tokens that are no mask.
 */
export type EncoderResult = "states" | "labels" | "token labels" | "tokens" | "masks";

/** Names of the host's classes that load encoders. */
export type EncoderClass = `AutoModel${"" | "ForSequenceClassification" | "ForTokenClassification" | "ForMaskedLM"}`;

/** Results of the models that the host's classes load. */
export const ENCODER_CLASSES: Readonly<Record<EncoderClass, EncoderResult>> = {
  AutoModel: "states",
  AutoModelForSequenceClassification: "labels",
  AutoModelForTokenClassification: "token labels",
  AutoModelForMaskedLM: "tokens",
};

/** @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` for a model that does not give the result */
export function checkResult({ config, weights, path }: Model, result: EncoderResult): void {
  const { encoder, pooling } = config;
  const isOfTokens = pooling?.kind === "labels" && pooling.mode === undefined;
  const isGiven = {
    states: pooling?.kind === "embedding",
    labels: pooling?.kind === "labels" && !isOfTokens,
    "token labels": isOfTokens,
    tokens: weights.encoder?.masked.length,
    masks: weights.encoder?.masked.length,
  }[result];
  if (encoder && isGiven) return;
  throw new ReadMeError("ERR_MODEL_UNSUPPORTED", `${path}: is no encoder that gives ${result}`);
}

/** Values of the tokens of each text that are no padding, `[tokens * size]`, or `[size]` of each text. */
interface Values {
  readonly rows: readonly Float32Array[];
  readonly size: number;
  /** Tokens of each text that have values. @default all */
  readonly places?: readonly (readonly number[])[] | undefined;
}

/**
 * Makes an instance of the host's `PreTrainedModel` whose calls give `last_hidden_state`, or `logits`.
 * @param parts - the engine, config.json, and what calls give
 */
export function hostEncoder(
  host: HostLike,
  { lease, config, result }: { lease: EngineLease; config: object; result: EncoderResult },
): object {
  const { engine } = lease;
  const { PreTrainedModel, PretrainedConfig, Tensor } = insideOf(host);

  class ReadMeEncoder extends PreTrainedModel {
    readonly engine: ReadMeEngine = engine;
    readonly events: ReadMeEmitter = engine.events;

    /** Computes `[texts, tokens, size]`, 0 at padding; or `[texts, size]`. */
    async forward(inputs: EncoderInputs): Promise<object> {
      const [numTexts = 0, numTokens = 0] = inputs.input_ids.dims;
      const texts = placesOf(inputs, numTexts, numTokens);
      const { rows, size, places } = await valuesOf(
        engine,
        result,
        texts.map((own) => idsOf(inputs, own, engine)),
      );
      const name = result === "states" ? "last_hidden_state" : "logits";
      if (result === "labels") {
        const values = new Float32Array(numTexts * size);
        for (const [text, row] of rows.entries()) values.set(row, text * size);
        return { [name]: new Tensor("float32", values, [numTexts, size]) };
      }
      const values = new Float32Array(numTexts * numTokens * size);
      for (const [text, own] of texts.entries()) {
        for (const [row, place] of (places?.[text] ?? Array.from(own.keys())).entries()) {
          values.set(rows[text]?.subarray(row * size, (row + 1) * size) ?? [], (own[place] ?? 0) * size);
        }
      }
      return { [name]: new Tensor("float32", values, [numTexts, numTokens, size]) };
    }

    async dispose(): Promise<readonly unknown[]> {
      await lease.release();
      return [];
    }
  }

  return new ReadMeEncoder(new PretrainedConfig(config), {});
}

/** Runs texts. */
async function valuesOf(
  engine: ReadMeEngine,
  result: EncoderResult,
  inputs: readonly (Int32Array | SegmentedIds)[],
): Promise<Values> {
  const { classification, mask, vocabSize } = engine.info;
  if (result === "states") {
    const { embeddings: rows } = await engine.embed({ inputs, pooling: "none" });
    // An embedding of a text may have other dimensions than the states.
    return { rows, size: (rows[0]?.length ?? 0) / tokensOf(inputs[0]!).length };
  }
  if (result !== "tokens" && result !== "masks") {
    return { rows: (await engine.classify({ inputs })).logits, size: classification?.labels.length ?? 0 };
  }
  const isMasked = (input: Int32Array | SegmentedIds): boolean =>
    Array.from(tokensOf(input)).includes(mask?.tokenId ?? -1);
  // The host's pipeline refuses a text without a mask itself.
  const places = result === "masks" && inputs.every(isMasked) ? "masks" : "all";
  const { inputs: filled } = await engine.fillMasks({ inputs, places });
  return { rows: filled.map(({ logits }) => logits), size: vocabSize, places: filled.map((one) => one.places) };
}

function tokensOf(input: Int32Array | SegmentedIds): ArrayLike<number> {
  return "tokenIds" in input ? input.tokenIds : input;
}

/** Reads the token ids of a text, with segments if the model has several, and a pair is given. */
function idsOf(
  { input_ids: ids, token_type_ids: types }: EncoderInputs,
  places: readonly number[],
  { info: { numSegments = 1 } }: ReadMeEngine,
): Int32Array | SegmentedIds {
  const numbers = ({ data }: HostTensor): Int32Array => Int32Array.from(places, (place) => Number(data[place]));
  if (numSegments === 1 || !types?.data.some((segment) => segment !== 0n)) return numbers(ids);
  return { tokenIds: numbers(ids), segments: numbers(types) };
}

/** Lists the places of each text's tokens that are no padding. @throws {TypeError} on other inputs */
function placesOf(
  { input_ids: ids, attention_mask: mask }: EncoderInputs,
  numTexts: number,
  numTokens: number,
): readonly (readonly number[])[] {
  if (ids.dims.length !== 2) throw new TypeError(`Expected \`input_ids\` of texts, got ${describeValue(ids.dims)}`);
  return Array.from({ length: numTexts }, (_, text) => {
    const all = Array.from({ length: numTokens }, (__, token) => text * numTokens + token);
    const own = mask ? all.filter((place) => mask.data[place] !== 0n) : all;
    // A text of padding alone has a state that nobody reads.
    return own.length > 0 ? own : all.slice(0, 1);
  });
}
