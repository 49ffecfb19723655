import { ReadMeError } from "../errors.ts";

/** What a model's graph says about the next token of one sequence, before any sampling parameter. */
export interface LogitsRow {
  /** The tokens with the largest logits, largest first; the lower id first among equals. May be empty. */
  readonly candidateIds: Int32Array;
  /** Their logits, in the same order. */
  readonly candidateLogits: Float32Array;
  /** Of all logits, at temperature 1; at most `logSumExpError` from the exact value. */
  readonly logSumExp: number;
  /** `[vocabSize]`, where the graph was asked for them. Changed while a token is chosen, and put back. */
  readonly fullLogits: Float32Array | undefined;
}

/**
 * How far a row's `logSumExp` may be from the exact value: what a sum of `vocabSize` float32 terms in any order can be
 * off by, relatively, and the roundings of the terms and of the value itself. Runtimes do sum one by one: 1.4e-4 in
 * the middle and 3e-4 at most was measured on 845 rows of SmolLM2-135M (onnxruntime 1.30.0, 49,152 tokens).
 */
export function logSumExpError(logSumExp: number, vocabSize: number): number {
  return vocabSize * 2 ** -24 + (2 + Math.abs(logSumExp)) * 2 ** -22;
}

/** @throws {ReadMeError} when the row has NaN or `Infinity`, or nothing but `-Infinity`: each shows in `logSumExp` */
export function checkRow({ logSumExp }: LogitsRow): void {
  if (Number.isFinite(logSumExp)) return;
  throw new ReadMeError("ERR_RUNTIME", `The model's logits are not finite: their log-sum-exp is ${logSumExp}`);
}

/** The error of a row in which penalties, bias and masks have left no token. */
export function noTokenLeft(): ReadMeError {
  return new ReadMeError("ERR_RUNTIME", "No token can be chosen: every logit of the row is `-Infinity`");
}
