// Splits a domain's documents into held-out text, calibration text and further text for the router.

import { calibrateModel, kernelThreads } from "@readme-moe/kernel";
import { cutSequences, endOfTextId, type InputStatistics, type Model, type Tokenizer } from "@readme-moe/model";
import { shuffled } from "../random.ts";

/** Every twelfth document is held out, beginning with index 11. */
const HELD_OUT = { every: 12, index: 11 } as const;
// A long document would fill the token budget alone: documents are cut, and their pieces are drawn separately.
const PIECE_CHARACTERS = 6000;

/** Documents of one kind. */
export interface DomainText {
  readonly name: string;
  /** Source files, for the report. */
  readonly files: readonly string[];
  readonly documents: readonly string[];
  /** Licences of the documents, for the report; none when unknown. */
  readonly licenses?: readonly string[] | undefined;
}

export interface DomainOptions {
  readonly calibrationTokens: number;
  /** Maximum of further tokens for the router. */
  readonly routerTokens: number;
  readonly evaluationSequences: number;
  readonly sequenceTokens: number;
  readonly endOfText: number;
  readonly seed: number;
}

/** Sequences of `sequenceTokens` tokens each. */
export interface DomainData {
  readonly name: string;
  readonly calibration: readonly Int32Array[];
  /** Text of the calibration documents beyond the calibration tokens. */
  readonly routerText: readonly Int32Array[];
  readonly evaluation: readonly Int32Array[];
  readonly calibrationDocuments: number;
  readonly heldOutDocuments: number;
}

/** @throws {RangeError} naming the domain, when its text is too short for one sequence of either kind */
export function prepareDomain(
  { name, documents }: DomainText,
  tokenizer: Tokenizer,
  options: DomainOptions,
): DomainData {
  const { calibrationTokens, routerTokens, evaluationSequences, sequenceTokens, seed } = options;
  const [kept, heldOut] = splitDocuments(documents);
  // Pieces are shuffled: even a few sequences come from as many documents as possible.
  const draw = (texts: readonly string[], tokens: number): readonly Int32Array[] =>
    sequencesOf(tokenizer, shuffled(texts.flatMap(pieces), seed), tokens, options);
  const drawn = draw(kept, calibrationTokens + routerTokens);
  const evaluation = draw(heldOut, evaluationSequences * sequenceTokens);
  const expectation = `at least ${sequenceTokens} tokens to calibrate with and as many held out (every twelfth document)`;
  if (drawn.length === 0 || evaluation.length === 0) {
    const found = `${documents.length} document(s), ${drawn.length + evaluation.length} sequence(s)`;
    throw new RangeError(`Expected data of ${JSON.stringify(name)} to have ${expectation}, got ${found}`);
  }
  const numCalibration = Math.floor(calibrationTokens / sequenceTokens);
  return {
    name,
    calibration: drawn.slice(0, numCalibration),
    routerText: drawn.slice(numCalibration),
    evaluation,
    calibrationDocuments: kept.length,
    heldOutDocuments: heldOut.length,
  };
}

/** Holds out the last document when there are fewer than twelve, and the last twelfth of a single document. */
function splitDocuments(documents: readonly string[]): readonly [kept: readonly string[], heldOut: readonly string[]] {
  const isHeldOut = (index: number): boolean => index % HELD_OUT.every === HELD_OUT.index;
  if (documents.length >= HELD_OUT.every) {
    return [documents.filter((_, index) => !isHeldOut(index)), documents.filter((_, index) => isHeldOut(index))];
  }
  if (documents.length > 1) return [documents.slice(0, -1), documents.slice(-1)];
  const [only = ""] = documents;
  const end = Math.floor((only.length * (HELD_OUT.every - 1)) / HELD_OUT.every);
  return [[only.slice(0, end)], [only.slice(end)]];
}

function pieces(document: string): readonly string[] {
  const count = Math.ceil(document.length / PIECE_CHARACTERS);
  return Array.from({ length: count }, (_, i) => document.slice(i * PIECE_CHARACTERS, (i + 1) * PIECE_CHARACTERS));
}

/** Joins texts, each followed by `endOfText`, and cuts them into sequences. An incomplete last sequence is dropped. */
function sequencesOf(
  tokenizer: Tokenizer,
  texts: readonly string[],
  maxTokens: number,
  { endOfText, sequenceTokens: length }: DomainOptions,
): readonly Int32Array[] {
  const joined: number[] = [];
  for (const text of texts) {
    if (joined.length >= maxTokens) break;
    for (const id of tokenizer.encode(text, { addSpecialTokens: false })) joined.push(id);
    joined.push(endOfText);
  }
  return cutSequences(tokenizer, joined, length).slice(0, Math.floor(maxTokens / length));
}

/** Measures inputs of a dense model's products. @param sizes - `calibrationTokens` are those of each text */
export async function measureInputs(
  model: Model,
  texts: readonly DomainText[],
  sizes: Pick<DomainOptions, "calibrationTokens" | "sequenceTokens">,
): Promise<InputStatistics> {
  const { tokenizer } = await model.loadText();
  const { eosTokenIds, contextTokens } = model.config;
  const sequenceTokens = Math.min(sizes.sequenceTokens, contextTokens);
  const endOfText = endOfTextId(tokenizer, eosTokenIds);
  const options = { ...sizes, sequenceTokens, routerTokens: 0, evaluationSequences: 1, endOfText, seed: 1 };
  const sequences = texts.flatMap((text) => prepareDomain(text, tokenizer, options).calibration);
  const tokens = sequences.map((ids) => ({ tokenIds: Array.from(ids) }));
  return calibrateModel(model, async () => tokens, { threads: kernelThreads() });
}
