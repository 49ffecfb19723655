// Facts about a file and its contenders that need no measurement.

import { stat } from "node:fs/promises";
import { kvPrecisionOf } from "@readme-moe/engine";
import { kvBytesPerToken, type KvPrecision, wholeBlocks } from "@readme-moe/kernel";
import { type Model, openModel, type Precision } from "@readme-moe/model";
import { placementsOf } from "../../packages/readme-moe/src/plan/placements.ts";
import { type ContenderSpec, nameOf } from "../engine/contender.ts";
import { documentsOf } from "../engine/own-texts.ts";
import { promptSource, textsOf, type Workload } from "../engine/workload.ts";
import { stepCost } from "../limits/step-cost.ts";

export interface FileFacts {
  /** Token ids that prompts are drawn from. */
  readonly tokens: readonly number[];
  readonly texts: Workload["texts"];
  /** The model's. */
  readonly contextTokens: number;
  /** Bytes of weights that a step of one request reads, by contender, where they are known. */
  readonly stepBytes: ReadonlyMap<string, number>;
  /** Memory of our engine, by contender. */
  readonly memory: ReadonlyMap<string, FileMemory>;
}

interface FileMemory {
  /** Sum of `readme-moe plan` for one request of this size, with the calling process. */
  readonly plannedBytes: number;
  /** Keys and values of the request. */
  readonly kvBytes: number;
}

/** As `readme-moe plan` says. */
const CALLING_PROCESS_BYTES = 60e6;

interface FactsOptions {
  readonly specs: readonly ContenderSpec[];
  readonly isOurs: (spec: ContenderSpec) => boolean;
  readonly data: readonly string[];
  /** Tokens of the request whose memory is measured. */
  readonly requestTokens: number;
  /** Size of the texts that losses are measured on. */
  readonly losses: Parameters<typeof textsOf>[3] & { readonly maxFiles: number };
}

export async function readFacts(path: string, options: FactsOptions): Promise<FileFacts> {
  const { specs, isOurs, data, requestTokens, losses } = options;
  const model = await openModel(path);
  try {
    const { tokenizer } = await model.loadText();
    const documents = await documentsOf(data);
    const ours = specs.filter(isOurs);
    const stored = await storedStepBytes(model);
    return {
      tokens: promptSource(tokenizer, documents.flat()),
      texts: textsOf(model, tokenizer, documents.slice(0, losses.maxFiles), losses),
      contextTokens: model.config.contextTokens,
      stepBytes: new Map([
        ...ours.map((spec) => [nameOf(spec), packedStepBytes(model, spec)] as const),
        ...specs
          .filter((spec) => spec.files["model"] === path && !isOurs(spec))
          .map((spec) => [nameOf(spec), stored] as const),
      ]),
      memory: new Map(ours.map((spec) => [nameOf(spec), memoryOf(model, spec, requestTokens)])),
    };
  } finally {
    await model.close();
  }
}

/** Counts all of the file but a table of embeddings that is not also the head: a step reads one row of it. */
async function storedStepBytes({ path, weights, config }: Model): Promise<number> {
  const { store, name } = weights.embedding;
  return (await stat(path)).size - (config.hasTiedEmbeddings ? 0 : store.info(name).byteLength);
}

/** Parses a variant of our engine, such as `file+int8`. */
function precisionsOf({ variant }: ContenderSpec): readonly [Precision, KvPrecision] {
  const [precision, kvPrecision] = variant.split("+") as [Precision, KvPrecision | undefined];
  return [precision, kvPrecisionOf(precision, kvPrecision)];
}

function packedStepBytes(model: Model, spec: ContenderSpec): number {
  const [precision] = precisionsOf(spec);
  return stepCost(model, precision, { numSeqs: 1, past: 0, distinct: 1 }).weightBytes;
}

function memoryOf(model: Model, spec: ContenderSpec, requestTokens: number): FileMemory {
  const [precision, kvPrecision] = precisionsOf(spec);
  const placement = placementsOf(model, { sequences: 1, contextTokens: requestTokens }).find(
    (one) => one.precision === precision,
  );
  return {
    plannedBytes: placement ? placement.weightBytes + placement.otherBytes + CALLING_PROCESS_BYTES : NaN,
    kvBytes: wholeBlocks(requestTokens) * kvBytesPerToken(model.config, kvPrecision),
  };
}
