import type { Precision } from "@readme-moe/model";
import type { LoadProgress } from "./protocol.ts";

/** Threads, precision, and where packed weights are kept. */
export interface RunnerOptions {
  /** Where packed weights are kept. @default `README_MOE_CACHE`, else the platform's cache folder */
  readonly cacheFolder?: string | undefined;
  /** @default all cores */
  readonly threads?: number | undefined;
  /** @default "fp32" */
  readonly precision?: Precision | undefined;
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined;
  /** Told once, with the reason, when weights cannot be cached and stay in memory. */
  readonly onCacheFailure?: ((reason: string) => void) | undefined;
}
