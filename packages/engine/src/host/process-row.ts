import { describeValue, type LogitsContext, type ProcessLogits } from "@readme-moe/core";

/**
 * Has a row of logits changed by a caller's function.
 *
 * @returns memory that is nobody else's, so that it can be sent away
 * @throws {TypeError | RangeError} when the function gives no row of the same length, and whatever it throws itself
 */
export async function processRow(
  process: ProcessLogits,
  logits: Float32Array<ArrayBuffer>,
  context: LogitsContext,
): Promise<Float32Array<ArrayBuffer>> {
  const vocabSize = logits.length;
  const answer: unknown = await process(logits, context);
  const processed = answer === undefined ? logits : answer;
  if (!(processed instanceof Float32Array)) {
    const got = describeValue(processed);
    throw new TypeError(`Expected \`processLogits\` to return a Float32Array or nothing, got ${got}`);
  }
  if (processed.length !== vocabSize) {
    throw new RangeError(`Expected \`processLogits\` to give ${vocabSize} logits, got ${processed.length}`);
  }
  // Another array may be one that the function goes on using.
  return processed === logits ? logits : new Float32Array(processed);
}
