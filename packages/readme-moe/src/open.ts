import { KernelRunner, type StepRunner } from "@readme-moe/engine";
import { openModel, type Model } from "@readme-moe/model";
import { openRouter } from "@readme-moe/router";
import type { PreGatingRouter } from "@readme-moe/core";
import { modelPath } from "./model-path.ts";
import type { RuntimeFlags } from "./options.ts";

export interface OpenedModel {
  readonly model: Model;
  readonly runner: StepRunner;
  readonly router: PreGatingRouter;
}

/** Opens model, router and runner, and closes all three after `use`, whatever happens in it. */
export async function withModel<Result>(
  path: string,
  flags: RuntimeFlags & { readonly expert?: string; readonly perExpert?: boolean },
  signal: AbortSignal,
  use: (opened: OpenedModel) => Promise<Result>,
): Promise<Result> {
  const { precision, threads, cacheFolder } = flags;
  const closers: (() => Promise<void>)[] = [];
  let cacheFailure: string | undefined;
  // Router and decoder fail for one and the same reason.
  const onCacheFailure = (reason: string): void => void (cacheFailure ??= reason);
  try {
    const model = await openModel(await modelPath(path, signal, cacheFolder));
    closers.unshift(() => model.close());
    // Who compares experts needs no router.
    const expert = flags.perExpert && !model.router ? 0 : flags.expert;
    const router = await openRouter(model, expert, { threads, cacheFolder, onCacheFailure });
    closers.unshift(() => router.dispose());
    const runner = await KernelRunner.open(model, { precision, threads, cacheFolder, onCacheFailure });
    closers.unshift(() => runner.dispose());
    if (cacheFailure !== undefined) console.error(`note: the model is not cached: ${cacheFailure}`);
    return await use({ model, runner, router });
  } finally {
    for (const close of closers) await close();
  }
}
