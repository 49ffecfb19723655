import { rejectUnknownKeys } from "../options.ts";
import {
  drawSequences,
  expectNumber,
  type GeneratedSequencesOptions,
  type Resolved,
  resolveSequences,
  SEQUENCE_OPTIONS,
} from "./generated-sequences.ts";
import type { ExpertTrace, TraceSequence } from "./trace.ts";

/** Options of `generateTrace`: the model's experts, and properties of the generated sequences. */
export interface GeneratedTraceOptions extends GeneratedSequencesOptions {
  /** Share of tokens that keep the expert of the previous token, in [0, 1]. @default 0.9 */
  readonly locality?: number | undefined;
  /** Share of the other tokens that return to their domain's own expert, in [0, 1]. @default 0.5 */
  readonly homeShare?: number | undefined;
}

type ResolvedOptions = Resolved<GeneratedTraceOptions>;

/**
 * Draws a trace. There is one domain for each expert. Each sequence belongs to a domain, all with equal probability,
 * and begins with its domain's expert. From token to token it keeps its expert with probability `locality`; otherwise
 * it returns to its domain's expert, or changes to any other one.
 *
 * @throws {TypeError | RangeError} naming the option
 */
export function generateTrace(options: GeneratedTraceOptions): ExpertTrace {
  const drawn = withDefaults(options);
  const { numExperts, layerBytes } = drawn;
  const sequences = drawSequences(drawn, (sequence, numTokens, draw): TraceSequence => ({
    ...sequence,
    experts: routeOf(draw, numTokens, drawn),
  }));
  return { layout: { numExperts, layerBytes }, sequences, steps: [] };
}

function routeOf(
  draw: () => number,
  numTokens: number,
  { numExperts, locality, homeShare }: ResolvedOptions,
): readonly number[] {
  const home = Math.floor(draw() * numExperts);
  const experts = [home];
  while (experts.length < numTokens) {
    const last = experts.at(-1) ?? home;
    const isKept = numExperts === 1 || draw() < locality;
    if (isKept) experts.push(last);
    else if (last !== home && draw() < homeShare) experts.push(home);
    else experts.push((last + 1 + Math.floor(draw() * (numExperts - 1))) % numExperts);
  }
  return experts;
}

function withDefaults(options: GeneratedTraceOptions): ResolvedOptions {
  const { locality = 0.9, homeShare = 0.5, ...others } = options;
  rejectUnknownKeys("generateTrace", options, OPTION_NAMES);
  const sequences = resolveSequences(others);
  expectNumber("locality", locality, 0, 1);
  expectNumber("homeShare", homeShare, 0, 1);
  return { ...sequences, locality, homeShare };
}

const OPTION_NAMES: readonly string[] = [...SEQUENCE_OPTIONS, "locality", "homeShare"];
