import type { CostModel, Residency, Scheduler, SchedulerLimits } from "@readme-moe/core";
import type { Tokenizer } from "@readme-moe/model";
import type { EngineOutput } from "./engine-output.ts";
import type { KvAdmission } from "./kv-admission.ts";
import type { StepRunner } from "./step-runner.ts";

/** What an engine is put together from. */
export interface EngineParts {
  readonly runner: StepRunner;
  readonly tokenizer: Tokenizer;
  readonly admission: KvAdmission;
  readonly scheduler: Scheduler;
  /** What steps are believed to cost before any has run. @default DEFAULT_COST_MODEL */
  readonly cost?: CostModel | undefined;
  readonly limits: SchedulerLimits;
  readonly residency?: Residency;
  /** That one sequence can have, prompt included. */
  readonly maxTokens: number;
  readonly output: EngineOutput;
  readonly now: () => number;
}
