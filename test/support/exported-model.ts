// Runs an exported graph as transformers.js does: prompts of unlike length padded on the left, the past fed back.

import type { ModelConfig } from "@readme-moe/model";
import { GraphSession, type GraphTensor } from "@readme-moe/refactor/graphs";

/** Logits of one row's last token, or of all of its tokens. */
export type Rows = readonly Float32Array[];

export class ExportedModel implements AsyncDisposable {
  readonly #session: GraphSession;
  readonly #config: ModelConfig;
  #past: Readonly<Record<string, GraphTensor>> = {};
  #mask: readonly number[][] = [];

  private constructor(session: GraphSession, config: ModelConfig) {
    this.#session = session;
    this.#config = config;
  }

  static async load(path: string, config: ModelConfig): Promise<ExportedModel> {
    return new ExportedModel(await GraphSession.openFile(path, { threads: 2 }), config);
  }

  /** Forgets the past, runs prompts as one batch, and gives the logits of every position, padding included. */
  async start(prompts: readonly (readonly number[])[]): Promise<Rows> {
    const longest = Math.max(...prompts.map((prompt) => prompt.length));
    this.#past = {};
    this.#mask = prompts.map((prompt) =>
      Array.from({ length: longest }, (_, i) => Number(i >= longest - prompt.length)),
    );
    return this.#run(prompts.map((prompt) => [...Array<number>(longest - prompt.length).fill(0), ...prompt]));
  }

  /** Goes on with as many tokens for each row. */
  async next(tokens: readonly (readonly number[])[]): Promise<Rows> {
    this.#mask = this.#mask.map((row, index) => [...row, ...(tokens[index] ?? []).map(() => 1)]);
    return this.#run(tokens);
  }

  async #run(ids: readonly (readonly number[])[]): Promise<Rows> {
    const { numLayers, numKvHeads, headSize, vocabSize } = this.#config;
    const [batch, length] = [ids.length, ids[0]?.length ?? 0];
    // As in transformers.js: padding has position 1.
    const positions = this.#mask.map((row) => {
      let count = 0;
      return row.map((isToken) => (isToken ? count++ : 1)).slice(-length);
    });
    const feeds: Record<string, GraphTensor> = {
      input_ids: int64(ids),
      attention_mask: int64(this.#mask),
      position_ids: int64(positions),
    };
    for (let layer = 0; layer < numLayers; layer++) {
      for (const part of ["key", "value"]) {
        const empty = { data: new Float32Array(), dims: [batch, numKvHeads, 0, headSize] };
        feeds[`past_key_values.${layer}.${part}`] = this.#past[`present.${layer}.${part}`] ?? empty;
      }
    }
    const { logits, ...present } = await this.#session.run(feeds);
    this.#past = present;
    if (logits?.dims.join() !== [batch, length, vocabSize].join()) throw new Error(`Logits ${logits?.dims.join()}`);
    const rowValues = length * vocabSize;
    return ids.map((_, row) => (logits.data as Float32Array).subarray(row * rowValues, (row + 1) * rowValues));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#session.dispose();
  }
}

/** The logits of a row's last position. */
export function lastOf(row: Float32Array | undefined, vocabSize: number): Float32Array {
  return (row ?? new Float32Array()).subarray(-vocabSize);
}

export function mostLikely(logits: Float32Array): number {
  return logits.reduce((best, value, id) => (value > (logits[best] as number) ? id : best), 0);
}

/** Mean loss of predicting each token but the first. @param row - logits of all positions */
export function meanLoss(row: Float32Array, tokenIds: readonly number[], vocabSize: number): number {
  let sum = 0;
  for (let position = 0; position + 1 < tokenIds.length; position++) {
    const logits = row.subarray(position * vocabSize, (position + 1) * vocabSize);
    const largest = Math.max(...logits);
    const total = logits.reduce((before, value) => before + Math.exp(value - largest), 0);
    sum += largest + Math.log(total) - (logits[tokenIds[position + 1] as number] as number);
  }
  return sum / (tokenIds.length - 1);
}

function int64(rows: readonly (readonly number[])[]): GraphTensor {
  return { data: BigInt64Array.from(rows.flat(), BigInt), dims: [rows.length, rows[0]?.length ?? 0] };
}
