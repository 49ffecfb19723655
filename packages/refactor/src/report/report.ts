// The report of a refactoring: the type of report.json, whose fields are spelled as in the `readme` section of
// config.json.

import { StreamingDecoder, type Tokenizer } from "@readme-moe/model";

/** Version of report.json that this code writes. */
export const REPORT_VERSION = 1;

/**
 * Plain JSON. Losses are means in nats per predicted token, on documents that neither the experts nor the router were
 * made from. Lists by expert are in the order of `settings.experts`, lists by domain in the order of `data`.
 */
export interface Report {
  readonly version: typeof REPORT_VERSION;
  readonly base: BaseReport;
  readonly size: SizeReport;
  readonly settings: SettingsReport;
  readonly data: readonly DomainReport[];
  /** Rows of losses, the dense model's first; rows that were not measured are absent. `lossRow` makes them. */
  readonly losses: readonly LossRow[];
  /** Loss of each expert on each domain, `[expert][domain]`. */
  readonly expert_losses?: readonly (readonly number[])[] | undefined;
  readonly overlap?: OverlapReport | undefined;
  /** One entry per layer. */
  readonly layers: readonly LayerReport[];
  /** Absent where nothing is routed. */
  readonly router?: RouterReport | undefined;
  /** Whole sentences about the figures. `verdictOf` makes them. */
  readonly verdict: readonly string[];
  readonly time: TimeReport;
}

/** The dense model. */
export interface BaseReport {
  readonly name: string;
  /** File, folder or hub id, as it was given. */
  readonly source: string;
  /** Id on the Hugging Face hub, where the source is one. */
  readonly hub_id?: string | undefined;
  /** Hash of its content. */
  readonly fingerprint: string;
  readonly model_type: string;
  readonly num_layers: number;
  readonly hidden_size: number;
  /** Neurons of a dense FFN. */
  readonly ffn_size: number;
  readonly parameters: number;
  /** SPDX id, where it is known. */
  readonly license?: string | undefined;
}

/** Numbers of parameters of the result. */
export interface SizeReport {
  /** Parameters of all parts: those that all tokens use, all experts, the router. */
  readonly parameters: number;
  /** Parameters that one token uses, including the router's. */
  readonly active_parameters: number;
  readonly router_parameters: number;
}

/** Settings that the result was made with. */
export interface SettingsReport {
  /** Method by which experts are made, such as `"sequential"`. */
  readonly method: string;
  /** Names, in the order of `experts/<i>.safetensors`. */
  readonly experts: readonly string[];
  /** Neurons of each expert; one number for all layers, or one per layer. */
  readonly expert_size: number | readonly number[];
  /** Neurons that every token uses in addition; one number or one per layer, 0 for none. */
  readonly shared_size: number | readonly number[];
  /** Largest number of calibration tokens per domain; `data` has the actual numbers. */
  readonly calibration_tokens: number;
  readonly seed: number;
  /** All other options, by name. */
  readonly options: Readonly<Record<string, string | number | boolean | readonly number[]>>;
}

/** One kind of text. */
export interface DomainReport {
  readonly name: string;
  readonly files: readonly string[];
  readonly calibration_documents: number;
  /** Documents that were used for evaluation only. */
  readonly held_out_documents: number;
  readonly calibration_tokens: number;
  /** Additional tokens that only the router was made from. */
  readonly router_tokens: number;
  readonly evaluation_tokens: number;
  /** Licences of the documents, as the files name them. */
  readonly licenses?: readonly string[] | undefined;
}

/** Losses of one way to choose neurons or experts. */
export interface LossRow {
  /** One of `LOSS_LABELS`, or another that `label` explains. */
  readonly id: string;
  readonly label: string;
  /** Neurons that a token uses, as a share of the dense FFN's, in (0, 1]. */
  readonly ffn_share: number;
  /** Loss by domain; domains that were not measured are absent. */
  readonly losses: Readonly<Record<string, number>>;
  /** Mean over domains, each counted once. */
  readonly mean: number;
  /** `mean` minus the dense model's mean over the same domains. */
  readonly above_dense: number;
}

/** Shares of neurons that two experts have in common, `[expert][expert]`, 1 on the diagonal. */
export interface OverlapReport {
  /** Over all layers. */
  readonly mean: readonly (readonly number[])[];
  /** One matrix per layer. */
  readonly layers: readonly (readonly (readonly number[])[])[];
}

/** One layer: sizes in neurons, and errors of its experts relative to the dense FFN. */
export interface LayerReport {
  readonly expert_size: number;
  readonly shared_size: number;
  /**
   * Squared distance from the layer's target, relative to the target's square: by id of the method, for each expert
   * on its own domain; for a static expert, one number.
   */
  readonly relative_errors: Readonly<Record<string, readonly number[]>>;
}

/** Quality of the router on held-out documents. Losses are in nats per token. */
export interface RouterReport {
  /** Mean loss with the router's routes minus that with the domain's expert; negative where the router is better. */
  readonly above_oracle_domain: number;
  /** `(router - best expert) / (random expert - best expert)` in reconstruction error: 0 is perfect, 1 is chance. */
  readonly regret: number;
  /** Share of tokens that go to their own domain's expert. */
  readonly domain_agreement: number;
  /** Share of tokens that keep the previous token's expert. */
  readonly locality: number;
  /** Share of tokens that each expert gets, `[expert]`. */
  readonly expert_shares: readonly number[];
  /** Share of each domain's tokens that each expert gets, `[domain][expert]`. */
  readonly domain_shares: readonly (readonly number[])[];
  /** Routes of the beginnings of held-out documents. `routedText` makes `pieces`. */
  readonly samples: readonly RoutedSample[];
}

/** The beginning of a document, token by token. */
export interface RoutedSample {
  readonly domain: string;
  readonly pieces: readonly RoutedPiece[];
}

/** One token. */
export interface RoutedPiece {
  /** Characters that this token completes, often none where characters take several tokens. */
  readonly text: string;
  readonly expert: number;
}

/** Time and memory that the refactoring took, and the machine. */
export interface TimeReport {
  readonly total_ms: number;
  /** Stages in the order in which they ran. */
  readonly stages: readonly { readonly name: string; readonly ms: number }[];
  /** Peak memory of the whole process. */
  readonly peak_memory_bytes: number;
  readonly machine: {
    readonly cores: number;
    readonly threads: number;
    /** Such as `"v22.1.0"`. */
    readonly node: string;
    /** Such as `"linux x64"`. */
    readonly platform: string;
  };
}

// Parts of a report that are computed from measurements: rows of losses, overlaps of experts, routed texts.

/** Labels of the rows that a report has where they were measured, in the order of tables and pictures. */
export const LOSS_LABELS = {
  dense: "Dense model",
  paper: "Paper's selection, domain's expert",
  random: "Random neurons, refitted",
  static: "One static expert, refitted",
  oracle_domain: "Domain's expert",
  oracle_token: "Best expert of each token",
  free: "Best expert of each layer and token",
  ours: "Ours: learned router",
} as const;

export type LossId = keyof typeof LOSS_LABELS;

/**
 * Makes a row with its means. Domains whose loss is NaN were not measured and are left out.
 *
 * @param ffnShare - neurons used per token, as a share of the dense FFN's
 * @param losses - by domain, in nats per token
 * @param dense - the dense model's losses by domain
 * @throws {RangeError} when no domain has a loss, or the dense model lacks one of them
 */
export function lossRow(
  id: LossId,
  ffnShare: number,
  losses: Readonly<Record<string, number>>,
  dense: Readonly<Record<string, number>>,
): LossRow {
  const measured = Object.entries(losses).filter(([, loss]) => !Number.isNaN(loss));
  if (measured.length === 0) throw new RangeError(`Expected \`losses\` of ${id} to have a number, got none`);
  let sum = 0;
  let denseSum = 0;
  for (const [domain, loss] of measured) {
    const denseLoss = dense[domain];
    if (denseLoss === undefined || !Number.isFinite(denseLoss)) {
      throw new RangeError(`Expected \`dense\` to have the loss of ${JSON.stringify(domain)}, got \`${denseLoss}\``);
    }
    sum += loss;
    denseSum += denseLoss;
  }
  return {
    id,
    label: LOSS_LABELS[id],
    ffn_share: ffnShare,
    losses: Object.fromEntries(measured),
    mean: sum / measured.length,
    above_dense: (sum - denseSum) / measured.length,
  };
}

/**
 * Computes the share of neurons that experts have in common. Layers without expert neurons count as sharing all.
 *
 * @param layers - by layer, each expert's neurons as rising indices; experts of a layer have equally many
 */
export function expertOverlap(layers: readonly (readonly Int32Array[])[]): OverlapReport {
  const matrices = layers.map((experts) => experts.map((one) => experts.map((other) => shareInCommon(one, other))));
  const first = matrices[0] ?? [];
  const mean = first.map((row, a) =>
    row.map((_, b) => matrices.reduce((sum, matrix) => sum + (matrix[a]?.[b] ?? 0), 0) / matrices.length),
  );
  return { mean, layers: matrices };
}

function shareInCommon(one: Int32Array, other: Int32Array): number {
  if (one.length === 0) return 1;
  let common = 0;
  let place = 0;
  for (const neuron of one) {
    while ((other[place] ?? Infinity) < neuron) place++;
    if (other[place] === neuron) common++;
  }
  return common / one.length;
}

/**
 * Splits a text into its tokens with their experts. A character that takes several tokens belongs to the last of
 * them; an incomplete character at the end becomes U+FFFD of the last token. All pieces together are the decoded
 * text.
 *
 * @param experts - by token
 */
export function routedText(
  tokenizer: Tokenizer,
  tokenIds: ArrayLike<number>,
  experts: ArrayLike<number>,
): readonly RoutedPiece[] {
  const decoder = new StreamingDecoder(tokenizer);
  return Array.from({ length: tokenIds.length }, (_, index) => {
    const text = decoder.push(tokenIds[index] ?? 0);
    const rest = index === tokenIds.length - 1 ? decoder.flush() : "";
    return { text: text + rest, expert: experts[index] ?? 0 };
  });
}
