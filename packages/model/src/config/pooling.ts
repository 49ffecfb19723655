// Results of a model for a whole text, in place of next tokens: an embedding, or a score.

/** Result that a model gives for a whole text, from the hidden state of its last token behind the final norm. */
export type PoolingConfig = EmbeddingConfig | ScoreConfig;

/** The hidden state itself is the result, `[hiddenSize]`. */
export interface EmbeddingConfig {
  readonly kind: "embedding";
  /** Whether embeddings have length 1. */
  readonly isNormalized: boolean;
  /** Texts that go before an input, by name, such as `query`. */
  readonly prompts: Readonly<Record<string, string>>;
  /** Prompt of inputs for which none is chosen. @default none */
  readonly defaultPrompt?: string | undefined;
}

/** Products with one or two rows are the result: the logit of "relevant", and that of "not relevant". */
export interface ScoreConfig {
  readonly kind: "score";
  readonly head: ScoreHead;
}

/** Place of the rows of a score: rows of the language model's head, or of a tensor of their own. */
type ScoreHead =
  | { readonly tokenIds: readonly number[] }
  | { readonly tensor: string; readonly numRows: number; readonly rows: readonly number[] };

/** Counts the outputs of a model's head: tokens, dimensions of an embedding, or logits of a score. */
export function numOutputsOf(config: {
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly pooling?: PoolingConfig | undefined;
}): number {
  const { pooling } = config;
  if (pooling === undefined) return config.vocabSize;
  if (pooling.kind === "embedding") return config.hiddenSize;
  return "tokenIds" in pooling.head ? pooling.head.tokenIds.length : pooling.head.rows.length;
}
