// Shared state of the stages of a refactoring.

import { ReadMeError } from "@readme-moe/core";
import { type Model, type Tokenizer, describeMixture, isPlain } from "@readme-moe/model";
import type { RefactorRun, ResolvedOptions, Sizes } from "../options.ts";
import type { DomainData, DomainText } from "./prepare-domain.ts";
import type { WorkFolder } from "./work-folder.ts";

export interface RefactorJob {
  readonly model: Model;
  readonly tokenizer: Tokenizer;
  readonly texts: readonly DomainText[];
  readonly data: readonly DomainData[];
  readonly options: ResolvedOptions;
  readonly sizes: Sizes;
  readonly work: WorkFolder;
  readonly stages: Stages;
  readonly run: RefactorRun;
  /** Fingerprint of the model's files. */
  readonly fingerprint: string;
  readonly grouping: Grouping;
}

/** Calibration texts by the expert that is made of them. */
export interface Grouping {
  /** Whether there is one expert for each domain, in their order. */
  readonly isByDomain: boolean;
  /** Names of the experts, all different. */
  readonly names: readonly string[];
  /** Calibration sequences of each expert. */
  readonly groups: readonly (readonly Int32Array[])[];
  /** Domain of each sequence, arranged like `groups`. */
  readonly domains: readonly (readonly number[])[];
}

/** Reports and times the stages of a refactoring. */
export class Stages {
  readonly times: { readonly name: string; readonly ms: number }[] = [];
  readonly report: (stage: string, done: number, of: number) => void;

  constructor(onProgress: RefactorRun["onProgress"]) {
    this.report = (stage, done, of) => onProgress?.({ stage, done, of });
  }

  async run<Result>(stage: string, work: () => Promise<Result> | Result): Promise<Result> {
    this.report(stage, 0, 1);
    const start = performance.now();
    const result = await work();
    this.times.push({ name: stage, ms: performance.now() - start });
    return result;
  }
}

const REFACTORED = "only dense models can be refactored: name one, or serve this model as it is";

/** @throws {ReadMeError} `ERR_MODEL_UNSUPPORTED` when a model is not a dense one, or has layers without attention */
export function refuseMixture(model: Model, advice = REFACTORED): void {
  if (isPlain(model)) return;
  throw new ReadMeError("ERR_MODEL_UNSUPPORTED", `${model.path}: is ${describeMixture(model)}; ${advice}`);
}
