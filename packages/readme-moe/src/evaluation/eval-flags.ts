import type { RuntimeFlags } from "../options.ts";

export interface EvalFlags extends RuntimeFlags {
  readonly data?: readonly string[];
  readonly requests?: readonly string[];
  readonly limit?: number;
  readonly sequenceLength?: number;
  readonly maxSequences: number;
  readonly stride?: number;
  readonly expert?: string;
  readonly perExpert: boolean;
  readonly json: boolean;
}
