import { endOfTextId, type Model } from "@readme-moe/model";
import { prepareDomain, type DomainText } from "../job/prepare-domain.ts";
import { diagonalOf } from "../experts/moments.ts";
import { layerSource } from "../layers/layer-source.ts";
import { runProductInputs } from "../layers/run-layer.ts";
import { TokenStream } from "../layers/token-stream.ts";
import { inputScales, type InputScales, type InputSquares } from "./input-scales.ts";

// Of each kind of text. Sums over some thousands of tokens change little with more.
const TOKENS = 2048;
const SEQUENCE_TOKENS = 256;
const BATCH_TOKENS = 1024;
const SEED = 1;
const MAX_GRAM_BYTES = 1 << 30;

/** What comes to the products of a model on texts. */
export interface MeasuredInputs {
  readonly scales: InputScales;
  /**
   * Of each layer: neurons' activations times each other, as in `Moments`; none where all layers' would take more than a
   * gigabyte.
   */
  readonly grams: readonly Float32Array[];
}

/** What comes to the products of the dense model; those of its experts are given much the same. */
export async function measureInputs(
  base: Model,
  texts: readonly DomainText[],
  onLayer: (done: number) => void,
): Promise<MeasuredInputs> {
  const { tokenizer } = await base.loadText();
  const { numLayers, intermediateSize, eosTokenIds } = base.config;
  const endOfText = endOfTextId(tokenizer, eosTokenIds);
  const sizes = { calibrationTokens: TOKENS, routerTokens: 0, evaluationSequences: 1, sequenceTokens: SEQUENCE_TOKENS };
  const sequences = texts.map(
    (text) => prepareDomain(text, tokenizer, { ...sizes, endOfText, seed: SEED }).calibration,
  );
  const stream = new TokenStream(base.config, sequences, BATCH_TOKENS);
  const hidden = await stream.embed(base);
  const squares: InputSquares[] = [];
  const grams: Float32Array[] = [];
  for (let index = 0; index < numLayers; index++) {
    onLayer(index);
    const { attention, ffn, gram } = await runProductInputs(layerSource(base, index), stream, hidden, {});
    squares.push({ attention, ffn, neurons: diagonalOf(gram, intermediateSize) });
    if (numLayers * gram.byteLength <= MAX_GRAM_BYTES) grams.push(gram);
  }
  return { scales: inputScales(squares, base.config), grams };
}
