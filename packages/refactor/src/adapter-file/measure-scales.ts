import { endOfTextId, type Model } from "@readme-moe/model";
import { prepareDomain, type DomainText } from "../data/prepare-domain.ts";
import { layerSource } from "../layers/layer-source.ts";
import { runInputSquares, type InputSquares } from "../layers/run-layer.ts";
import { TokenStream } from "../layers/token-stream.ts";
import { inputScales, type InputScales } from "./input-scales.ts";

// Of each kind of text. Sums of squares over some thousands of tokens change little with more.
const TOKENS = 2048;
const SEQUENCE_TOKENS = 256;
const BATCH_TOKENS = 1024;
const SEED = 1;

/** What comes to the products of the dense model on texts; those of its experts are given much the same. */
export async function measureScales(
  base: Model,
  texts: readonly DomainText[],
  onLayer: (done: number) => void,
): Promise<InputScales> {
  const { tokenizer } = await base.loadText();
  const endOfText = endOfTextId(tokenizer, base.config.eosTokenIds);
  const sizes = { calibrationTokens: TOKENS, routerTokens: 0, evaluationSequences: 1, sequenceTokens: SEQUENCE_TOKENS };
  const sequences = texts.map(
    (text) => prepareDomain(text, tokenizer, { ...sizes, endOfText, seed: SEED }).calibration,
  );
  const stream = new TokenStream(base.config, sequences, BATCH_TOKENS);
  const hidden = await stream.embed(base);
  const squares: InputSquares[] = [];
  for (let index = 0; index < base.config.numLayers; index++) {
    onLayer(index);
    squares.push(await runInputSquares(layerSource(base, index), stream, hidden, {}));
  }
  return inputScales(squares, base.config);
}
