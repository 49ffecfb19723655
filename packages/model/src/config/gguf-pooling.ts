// Pooling as a GGUF file states it, in the metadata that llama.cpp's converter writes.

import { describeValue, ReadMeError } from "@readme-moe/core";
import type { GgufTensorStore } from "../gguf/gguf-tensor-store.ts";
import { quoted, unsupported } from "../files/errors.ts";
import type { PoolingConfig } from "./pooling.ts";

/** Values of `pooling_type`: `enum llama_pooling_type` in llama.cpp's include/llama.h. */
const [NONE, MEAN, CLS, LAST, RANK] = [0, 1, 2, 3, 4];
const MODES = new Map<unknown, string>([
  [MEAN, "the mean of all tokens"],
  [CLS, "the first token"],
]);
/** Tensor with one row for each label of a classifier. */
const CLASSIFIER = "cls.output.weight";

/**
 * Reads what a file's model gives for a whole text.
 *
 * @param get - reads metadata behind the architecture's name
 * @returns `undefined` for a model that generates
 * @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` naming the mode or the labels; `ERR_MODEL_INVALID`
 */
export function ggufPooling(store: GgufTensorStore, get: (key: string) => unknown): PoolingConfig | undefined {
  const type = get("pooling_type");
  if (type === undefined || type === NONE) return undefined;
  // llama.cpp's server normalises embeddings unless a request says otherwise.
  if (type === LAST) return { kind: "embedding", isNormalized: true, prompts: {} };
  if (type !== RANK) {
    const mode = MODES.get(type) ?? `type ${describeValue(type)}`;
    throw unsupported(store.path, `pools by ${mode}, which is not supported; served are the last token and ranking`);
  }
  if (!store.has(CLASSIFIER)) {
    throw new ReadMeError("ERR_MODEL_INVALID", `${store.path}: ranks documents, but has no tensor ${CLASSIFIER}`);
  }
  const [numRows = 0] = store.info(CLASSIFIER).shape;
  const labels = get("classifier.output_labels");
  if (numRows === 1) return { kind: "score", head: { tensor: CLASSIFIER, numRows, rows: [0] } };
  const rows = ["yes", "no"].map((label) => (Array.isArray(labels) ? labels.indexOf(label) : -1));
  if (numRows === 2 && rows.every((row) => row >= 0)) {
    return { kind: "score", head: { tensor: CLASSIFIER, numRows, rows } };
  }
  const named = Array.isArray(labels)
    ? quoted(
        labels
          .slice(0, 10)
          .filter((label) => typeof label === "string")
          .join(", "),
      )
    : `${numRows} labels`;
  throw unsupported(store.path, `classifies into ${named}, which is not supported; served are yes and no`);
}
